//! Kustomizations: the engine `kustomize`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{File, frame, sizes};

/// A kustomization and all files that it names.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The kustomization, its bases, components, patches and so on. Nothing is fetched: remote bases are an error.
    pub files: Vec<File>,
    /// The folder of the kustomization to build, `.` for the uppermost one.
    pub path: String,
    /// A kustomization may read files outside its folder, as with `--load-restrictor LoadRestrictionsNone`.
    pub unrestricted: bool,
    /// Give the objects as YAML.
    pub text: bool,
    /// Give the objects as JSON.
    pub objects: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Header<'a> {
    files: Vec<crate::Sized<'a>>,
    path: &'a str,
    unrestricted: bool,
    text: bool,
    objects: bool,
}

impl Request {
    /// The bytes for the engine.
    ///
    /// # Errors
    /// When the header cannot be written.
    pub fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        let Self { files, path, unrestricted, text, objects } = self;
        let header = Header {
            files: sizes(files),
            path: if path.is_empty() { "." } else { path },
            unrestricted: *unrestricted,
            text: *text,
            objects: *objects,
        };
        frame(&header, files.iter().map(|(_, bytes)| bytes.as_slice()))
    }
}

/// What the engine says: an error, or the objects.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Reply {
    /// Why the kustomization does not build.
    pub error: Option<Error>,
    /// What `kustomize build` prints, if [`Request::text`] asks for it.
    pub text: String,
    /// The same objects in the same order, if [`Request::objects`] asks for them.
    pub objects: Vec<Value>,
}

/// Why a kustomization does not build.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Error {
    /// `BadKustomization`, `RemoteSource` (it names what is not among the files), `PluginsDisabled` (it wants another
    /// program, such as Helm), `BadObject`, `BadRequest`.
    pub reason: String,
    /// In kustomize's words.
    pub message: String,
}

impl Reply {
    /// Reads an output.
    ///
    /// # Errors
    /// When the bytes are no output of this engine.
    pub fn decode(output: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_measures_its_files() {
        let files = vec![("a.yaml".into(), b"a: 1".to_vec()), ("kustomization.yaml".into(), b"{}".to_vec())];
        let input = Request { files, text: true, ..Request::default() }.encode().unwrap();
        let length = usize::try_from(u32::from_le_bytes(input[..4].try_into().unwrap())).unwrap();
        let header: Value = serde_json::from_slice(&input[4..4 + length]).unwrap();
        let files = serde_json::json!([{ "path": "a.yaml", "size": 4 }, { "path": "kustomization.yaml", "size": 2 }]);
        assert_eq!((&header["files"], &header["path"], &header["text"]), (&files, &".".into(), &true.into()));
        assert_eq!(&input[4 + length..], b"a: 1{}");
    }
}
