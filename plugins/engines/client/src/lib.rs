//! Input and output of the engines in `plugins/engines`, for plugins that ask them by `lookup.engine`.
//!
//! An input is four bytes with the length of a header (little endian), the header (JSON), and the bytes of the files that
//! the header measures, without any encoding. An output is JSON.

pub mod helm;
pub mod kustomize;

use serde::Serialize;

/// An input of header and blobs.
fn frame<'a>(header: &impl Serialize, blobs: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<u8>, serde_json::Error> {
    let header = serde_json::to_vec(header)?;
    let length = u32::try_from(header.len()).map_err(<serde_json::Error as serde::ser::Error>::custom)?;
    let mut input = length.to_le_bytes().to_vec();
    input.extend(header);
    blobs.into_iter().for_each(|blob| input.extend(blob));
    Ok(input)
}

/// One file: its path, `/` between folders, and what is in it.
pub type File = (String, Vec<u8>);

#[derive(Serialize)]
struct Sized<'a> {
    path: &'a str,
    size: usize,
}

fn sizes(files: &[File]) -> Vec<Sized<'_>> {
    files.iter().map(|(path, bytes)| Sized { path, size: bytes.len() }).collect()
}
