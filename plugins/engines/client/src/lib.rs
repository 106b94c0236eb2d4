//! Input and output of the engines in `plugins/engines`, for plugins that ask them by `lookup.engine`.
//!
//! An input is four bytes with the length of a header (little endian), the header (JSON), and the bytes of the files that
//! the header measures, without any encoding. Files may be named by handle: see [`content`]. An output is JSON.

pub mod content;
pub mod helm;
pub mod kustomize;

use serde::Serialize;

/// An input of header and blobs.
fn frame<'a>(header: &impl Serialize, blobs: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<u8>, serde_json::Error> {
    let header = serde_json::to_vec(header)?;
    let length = u32::try_from(header.len()).map_err(<serde_json::Error as serde::ser::Error>::custom)?;
    let mut start = length.to_le_bytes().to_vec();
    start.extend(header);
    let mut all = vec![start.as_slice()];
    for blob in blobs {
        all.push(blob);
    }
    Ok(content::concat(&all))
}

/// One file: its path, `/` between folders, and what is in it or a [handle](content) of that.
pub type File = (String, Vec<u8>);

#[derive(Serialize)]
struct Sized<'a> {
    path: &'a str,
    size: usize,
}

fn sizes(files: &[File]) -> Vec<Sized<'_>> {
    files.iter().map(|(path, bytes)| Sized { path, size: content::size(bytes) }).collect()
}
