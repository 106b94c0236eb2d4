//! From archives to files, within bounds.

use std::collections::BTreeMap;
use std::io::Read;

use flate2::read::MultiGzDecoder;
use tar::{Archive, EntryType};

use super::{MAX_BYTES, MAX_FILES};
use crate::plan::glob;

/// By path.
pub(super) type Files = BTreeMap<String, Vec<u8>>;

/// Reason and message.
pub(super) type Refusal = (&'static str, String);

/// What is gone through of one archive, wanted or not: a few kilobytes can unpack to gigabytes.
const MAX_UNPACKED: u64 = 64 << 20;

/// Entries that are gone through, wanted or not.
const MAX_ENTRIES: usize = 100_000;

const MAX_PATH: usize = 1_024;

/// Gathers the files that are wanted.
#[derive(Clone)]
pub(super) struct Collector {
    include: Vec<String>,
    pub(super) files: Files,
    bytes: usize,
}

impl Collector {
    pub(super) fn new(include: &[String]) -> Self {
        Self { include: include.to_vec(), files: Files::new(), bytes: 0 }
    }

    /// Is a file with this path asked for?
    pub(super) fn wants(&self, path: &str) -> bool {
        self.include.is_empty() || self.include.iter().any(|pattern| glob::matches(pattern, path))
    }

    /// Adds a file; a later one replaces an earlier one, as when an archive is unpacked.
    pub(super) fn add(&mut self, path: String, content: impl Read) -> Result<(), Refusal> {
        let room = MAX_BYTES.saturating_sub(self.bytes);
        let mut bytes = Vec::new();
        let read = content.take(room as u64 + 1).read_to_end(&mut bytes);
        read.map_err(|error| ("Unreadable", format!("{path}: {error}")))?;
        if bytes.len() > room {
            return Err(("TooLarge", format!("more than {MAX_BYTES} bytes unpacked: name fewer files under include")));
        }
        self.bytes += bytes.len();
        if let Some(before) = self.files.insert(path, bytes) {
            self.bytes -= before.len();
        }
        if self.files.len() > MAX_FILES {
            return Err(("TooLarge", format!("more than {MAX_FILES} files: name fewer under include")));
        }
        Ok(())
    }

    /// Adds the files of a tar or tar.gz.
    pub(super) fn archive(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        if bytes.starts_with(&[0x1f, 0x8b]) {
            return self.tar(MultiGzDecoder::new(bytes));
        }
        if bytes.get(257..262) == Some(b"ustar") || bytes.iter().all(|byte| *byte == 0) {
            return self.tar(bytes);
        }
        Err(("Unreadable", "is neither tar nor tar.gz".into()))
    }

    fn tar(&mut self, stream: impl Read) -> Result<(), Refusal> {
        let mut archive = Archive::new(stream.take(MAX_UNPACKED));
        let done = self.entries(&mut archive);
        // an archive that ends in the middle was cut off by the bound
        if archive.into_inner().limit() == 0 {
            return Err(("TooLarge", format!("more than {MAX_UNPACKED} bytes unpacked")));
        }
        done
    }

    fn entries(&mut self, archive: &mut Archive<impl Read>) -> Result<(), Refusal> {
        let unreadable = |error: std::io::Error| ("Unreadable", format!("not a tar archive: {error}"));
        for (i, entry) in archive.entries().map_err(unreadable)?.enumerate() {
            let mut entry = entry.map_err(unreadable)?;
            if i >= MAX_ENTRIES {
                return Err(("TooLarge", format!("more than {MAX_ENTRIES} entries")));
            }
            let kind = entry.header().entry_type();
            if matches!(kind, EntryType::Directory | EntryType::XGlobalHeader | EntryType::XHeader) {
                continue;
            }
            let path = plain_path(&entry.path_bytes())?;
            if !self.wants(&path) {
                continue;
            }
            if !matches!(kind, EntryType::Regular | EntryType::Continuous) {
                return Err(("Unsafe", format!("{path} is no regular file ({kind:?}): links and devices are refused")));
            }
            self.add(path, &mut entry)?;
        }
        Ok(())
    }
}

/// A path that stays where it is put: relative, without `..`, the same on every system.
pub(super) fn plain_path(raw: &[u8]) -> Result<String, Refusal> {
    let shown = String::from_utf8_lossy(raw);
    let refuse = |what: &str| ("Unsafe", format!("the path {:?} {what}", crate::plan::check::shorten(&shown, 256)));
    let text = std::str::from_utf8(raw).map_err(|_| refuse("is not UTF-8"))?;
    if text.len() > MAX_PATH {
        return Err(refuse("is too long"));
    }
    if text.starts_with('/') || text.contains('\\') || text.chars().any(char::is_control) {
        return Err(refuse("is absolute, or has characters that do not belong there"));
    }
    let mut parts = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => return Err(refuse("leads out of the archive")),
            part => parts.push(part),
        }
    }
    if parts.is_empty() {
        return Err(refuse("names nothing"));
    }
    Ok(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::write::GzEncoder;
    use rstest::rstest;
    use tar::{Builder, Header};

    use super::*;

    /// An archive with paths as they are: the builder of the library refuses bad ones.
    fn archive(entries: &[(&[u8], EntryType, &[u8])]) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        for (path, kind, content) in entries {
            let mut header = Header::new_gnu();
            header.as_old_mut().name[..path.len()].copy_from_slice(path);
            header.set_entry_type(*kind);
            header.set_size(content.len() as u64);
            if kind.is_symlink() || kind.is_hard_link() {
                header.as_old_mut().linkname[..11].copy_from_slice(b"/etc/passwd");
            }
            header.set_cksum();
            builder.append(&header, *content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn collect(include: &[&str], bytes: &[u8]) -> Result<Vec<(String, String)>, &'static str> {
        let include: Vec<String> = include.iter().map(ToString::to_string).collect();
        let mut collector = Collector::new(&include);
        collector.archive(bytes).map_err(|(reason, _)| reason)?;
        Ok(collector.files.into_iter().map(|(path, c)| (path, String::from_utf8(c).unwrap())).collect())
    }

    fn pairs(list: &[(&str, &str)]) -> Result<Vec<(String, String)>, &'static str> {
        Ok(list.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect())
    }

    const FILE: EntryType = EntryType::Regular;

    #[test]
    fn files_are_sorted_and_chosen_by_glob_from_tar_and_tar_gz() {
        let tar = archive(&[
            (b"./b/x.yaml", FILE, b"2"),
            (b"a.yaml", FILE, b"1"),
            (b"b", EntryType::Directory, b""),
            (b"b/notes", FILE, b"3"),
        ]);
        let all = pairs(&[("a.yaml", "1"), ("b/notes", "3"), ("b/x.yaml", "2")]);
        assert_eq!(collect(&[], &tar), all);
        assert_eq!(collect(&[], &gzip(&tar)), all);
        assert_eq!(collect(&["**/*.yaml"], &gzip(&tar)), pairs(&[("a.yaml", "1"), ("b/x.yaml", "2")]));
    }

    #[rstest]
    #[case::out(b"../x", FILE)]
    #[case::out_in_the_middle(b"a/../../x", FILE)]
    #[case::absolute(b"/etc/x", FILE)]
    #[case::windows(b"..\\x", FILE)]
    #[case::control(b"a\nb", FILE)]
    #[case::not_text(b"a\xff", FILE)]
    #[case::symlink(b"x", EntryType::Symlink)]
    #[case::hard_link(b"x", EntryType::Link)]
    #[case::device(b"x", EntryType::Char)]
    #[case::pipe(b"x", EntryType::Fifo)]
    fn what_leads_elsewhere_is_refused(#[case] path: &[u8], #[case] kind: EntryType) {
        assert_eq!(collect(&[], &archive(&[(b"good", FILE, b"1"), (path, kind, b"")])), Err("Unsafe"));
    }

    #[test]
    fn a_link_that_nobody_asked_for_is_passed_over() {
        let tar = archive(&[(b"link", EntryType::Symlink, b""), (b"a.yaml", FILE, b"1")]);
        assert_eq!(collect(&["*.yaml"], &tar), pairs(&[("a.yaml", "1")]));
    }

    #[test]
    fn what_unpacks_to_too_much_is_refused() {
        let large = vec![0; MAX_BYTES + 1];
        assert_eq!(collect(&[], &gzip(&archive(&[(b"x", FILE, &large)]))), Err("TooLarge"));
        let halves = vec![0; MAX_BYTES / 2 + 1];
        assert_eq!(collect(&[], &gzip(&archive(&[(b"x", FILE, &halves), (b"y", FILE, &halves)]))), Err("TooLarge"));
        let unwanted = vec![0; usize::try_from(MAX_UNPACKED).unwrap()];
        assert_eq!(collect(&["y"], &gzip(&archive(&[(b"x", FILE, &unwanted)]))), Err("TooLarge"));
    }

    #[test]
    fn too_many_files_are_refused() {
        let names: Vec<String> = (0..=MAX_FILES).map(|i| i.to_string()).collect();
        let entries: Vec<_> = names.iter().map(|name| (name.as_bytes(), FILE, b"".as_slice())).collect();
        assert_eq!(collect(&[], &archive(&entries)), Err("TooLarge"));
        assert!(collect(&[], &archive(&entries[1..])).is_ok());
    }

    #[test]
    fn what_is_no_archive_is_refused() {
        assert_eq!(collect(&[], b"hello"), Err("Unreadable"));
        assert_eq!(collect(&[], &gzip(b"hello, this is no tar")), Err("Unreadable"));
        let whole = gzip(&archive(&[(b"x", FILE, &[7; 100_000])]));
        assert_eq!(collect(&[], &whole[..whole.len() / 2]), Err("Unreadable"));
    }

    proptest::proptest! {
        #[test]
        fn a_plain_path_never_leads_out(raw in proptest::collection::vec(proptest::prop_oneof![
            proptest::strategy::Just(b'.'), proptest::strategy::Just(b'/'), proptest::num::u8::ANY], 0..24)) {
            if let Ok(path) = plain_path(&raw) {
                proptest::prop_assert!(!path.is_empty() && !path.starts_with('/') && !path.ends_with('/'));
                proptest::prop_assert!(path.split('/').all(|part| !matches!(part, "" | "." | "..")));
            }
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(mut bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..2_048), gz: bool) {
            if bytes.len() > 262 {
                bytes[257..262].copy_from_slice(b"ustar");
            }
            let _ = collect(&[], &if gz { gzip(&bytes) } else { bytes });
        }
    }
}
