//! Compiled code is run without further checks, so the host must know it for its own: every file in the cache carries an
//! HMAC (RFC 2104) under a key that is not in the cache. Whoever can write to the folder can make the host compile again,
//! and nothing else.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};

/// Of the key, and of the code that it makes.
const BYTES: usize = 32;

/// At a time.
const CHUNK: usize = 64 << 10;

/// The key, and what it does.
#[derive(Clone, Debug)]
pub struct Seal {
    key: hmac::Key,
}

impl Seal {
    /// From a key that nobody else has.
    #[must_use]
    pub fn new(key: &[u8; BYTES]) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, key) }
    }

    /// For this process only: what it compiles is compiled again by the next one.
    ///
    /// # Errors
    /// When the system has no random bytes.
    pub fn ephemeral() -> io::Result<Self> {
        Ok(Self::new(&random()?))
    }

    /// The key in this file, which is made when it is not there, readable by its owner alone.
    ///
    /// # Errors
    /// When it can neither be read nor made, or is shorter than 32 bytes.
    pub fn in_file(path: &Path) -> io::Result<Self> {
        match std::fs::read(path) {
            Ok(bytes) => Self::from_bytes(&bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if let Some(dir) = path.parent() {
                    std::fs::create_dir_all(dir)?;
                }
                let key = random()?;
                let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
                let mut part = tempfile::NamedTempFile::new_in(dir)?;
                part.write_all(&key)?;
                match part.persist_noclobber(path) {
                    Ok(_) => Ok(Self::new(&key)),
                    // another process was faster: its key counts
                    Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
                        Self::from_bytes(&std::fs::read(path)?)
                    }
                    Err(error) => Err(error.error),
                }
            }
            Err(error) => Err(error),
        }
    }

    fn from_bytes(bytes: &[u8]) -> io::Result<Self> {
        if bytes.len() < BYTES {
            let message = format!("a key of {} bytes, must be {BYTES} or more", bytes.len());
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        Ok(Self { key: hmac::Key::new(hmac::HMAC_SHA256, bytes) })
    }

    /// Tells files of one key apart from those of another; says nothing about the key.
    pub(super) fn id(&self) -> String {
        let tag = hmac::sign(&self.key, b"transom: name of the key");
        tag.as_ref().iter().take(4).map(|byte| format!("{byte:02x}")).collect()
    }

    /// Writes `code` to `path` with its seal in front; the file is there whole or not at all.
    pub(super) fn write(&self, path: &Path, code: &mut File) -> io::Result<()> {
        let dir = path.parent().unwrap_or(path);
        let mut part = tempfile::NamedTempFile::new_in(dir)?;
        part.write_all(&[0; BYTES])?;
        code.rewind()?;
        let tag = self.copy(path, code, part.as_file_mut())?;
        part.as_file_mut().rewind()?;
        part.write_all(tag.as_ref())?;
        part.persist(path).map(drop).map_err(|error| error.error)
    }

    /// The code in `path` as a file without a name, so that nobody changes it after it was checked. None when there is no
    /// such file.
    ///
    /// # Errors
    /// `InvalidData` when the seal is not ours, for this file name.
    pub(super) fn open(&self, path: &Path) -> io::Result<Option<File>> {
        let mut sealed = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut tag = [0; BYTES];
        sealed.read_exact(&mut tag).map_err(|_| not_ours())?;
        let mut copy = tempfile::tempfile_in(path.parent().unwrap_or(path))?;
        let ours = self.copy(path, &mut sealed, &mut copy)?;
        // of both once more, so that how long it takes says nothing about where they differ
        let again = hmac::sign(&self.key, &tag);
        hmac::verify(&self.key, ours.as_ref(), again.as_ref()).map_err(|_| not_ours())?;
        copy.seek(SeekFrom::Start(0))?;
        Ok(Some(copy))
    }

    /// The name is sealed, too: it says which component and which processor the code is for.
    fn copy(&self, path: &Path, from: &mut File, to: &mut File) -> io::Result<hmac::Tag> {
        let mut mac = hmac::Context::with_key(&self.key);
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        mac.update(&(name.len() as u64).to_be_bytes());
        mac.update(name);
        let mut chunk = vec![0; CHUNK];
        loop {
            let length = from.read(&mut chunk)?;
            let Some(part) = chunk.get(..length).filter(|part| !part.is_empty()) else {
                return Ok(mac.sign());
            };
            mac.update(part);
            to.write_all(part)?;
        }
    }
}

fn not_ours() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "not written by this host, or changed since")
}

fn random() -> io::Result<[u8; BYTES]> {
    let mut bytes = [0; BYTES];
    SystemRandom::new().fill(&mut bytes).map_err(|_| io::Error::other("the system has no random bytes"))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn read(seal: &Seal, path: &Path) -> io::Result<Option<Vec<u8>>> {
        let opened = seal.open(path)?.map(|mut file| {
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).map(|_| bytes)
        });
        opened.transpose()
    }

    #[test]
    fn every_flipped_byte_another_name_and_another_key_are_noticed() {
        let (dir, seal) = (tempfile::tempdir().unwrap(), Seal::new(&[1; BYTES]));
        let path = dir.path().join("a.cwasm");
        assert_eq!(read(&seal, &path).unwrap(), None);
        seal.write(&path, &mut file(b"code")).unwrap();
        assert_eq!(read(&seal, &path).unwrap().as_deref(), Some(b"code".as_slice()));
        let good = std::fs::read(&path).unwrap();
        for i in 0..good.len() {
            let mut bad = good.clone();
            bad[i] ^= 1;
            std::fs::write(&path, bad).unwrap();
            assert_eq!(read(&seal, &path).unwrap_err().kind(), io::ErrorKind::InvalidData, "byte {i}");
        }
        for length in 0..good.len() {
            std::fs::write(&path, &good[..length]).unwrap();
            assert!(read(&seal, &path).is_err(), "{length} bytes of {}", good.len());
        }
        std::fs::write(&path, &good).unwrap();
        assert!(read(&Seal::new(&[2; BYTES]), &path).is_err(), "another key");
        std::fs::rename(&path, dir.path().join("b.cwasm")).unwrap();
        assert!(read(&seal, &dir.path().join("b.cwasm")).is_err(), "another name");
    }

    /// What is mapped stays what was checked, whatever happens to the file in the cache.
    #[test]
    fn what_was_opened_is_not_changed_by_those_who_write_to_the_folder() {
        let (dir, seal) = (tempfile::tempdir().unwrap(), Seal::new(&[1; BYTES]));
        let path = dir.path().join("a.cwasm");
        seal.write(&path, &mut file(b"code")).unwrap();
        let mut opened = seal.open(&path).unwrap().unwrap();
        std::fs::write(&path, [b'!'; 64]).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "the copy has no name");
        let mut bytes = Vec::new();
        opened.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"code");
    }

    #[test]
    fn a_key_is_made_once_for_its_owner_and_read_from_then_on() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state/cache.key");
        let made = Seal::in_file(&path).unwrap();
        assert_eq!(made.id(), Seal::in_file(&path).unwrap().id());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_ne!(made.id(), Seal::ephemeral().unwrap().id());
        std::fs::write(&path, [1; BYTES - 1]).unwrap();
        assert_eq!(Seal::in_file(&path).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
