//! Names of children.

use serde::Serialize;

/// A DNS label's limit (RFC 1123), which is also that of a label's value.
const LABEL: usize = 63;

/// Eight lower-case letters and digits that tell `value` from others: the same in every build, for every call. For
/// names of objects that must be replaced when what they are made of changes.
///
/// 40 bits of FNV-1a over the JSON text: two of a thousand values meet once in two million. It guards against nothing
/// that wants to collide.
///
/// # Errors
///
/// When `value` has no JSON form.
pub fn hash(value: &impl Serialize) -> Result<String, crate::Failure> {
    let json = serde_json::to_vec(value)
        .map_err(|error| crate::Failure::internal(format!("what is hashed has no JSON form: {error}")))?;
    Ok(spell(fnv1a(&json)))
}

/// `name-suffix`, at most 63 characters: of a longer name the end is replaced by a hash of all of it.
pub fn with_suffix(name: &str, suffix: &str) -> String {
    let whole = format!("{name}-{suffix}");
    if whole.len() <= LABEL {
        return whole;
    }
    let hash = spell(fnv1a(name.as_bytes()));
    let room = LABEL.saturating_sub(suffix.len() + hash.len() + 2);
    let cut = name.char_indices().map(|(at, _)| at).take_while(|at| *at <= room).last().unwrap_or(0);
    let start = name.get(..cut).unwrap_or_default().trim_end_matches(['-', '.']);
    format!("{start}-{hash}-{suffix}")
}

/// [`hash`] of text as it stands.
pub(crate) fn hash_text(text: &str) -> String {
    spell(fnv1a(text.as_bytes()))
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// 40 bits as eight digits to the base 32, folded from all 64.
fn spell(hash: u64) -> String {
    const DIGITS: [char; 32] = [
        'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j', 'k', 'l', 'm', 'n', 'o', 'p', 'q', 'r', 's', 't', 'u', 'v',
        'w', 'x', 'y', 'z', '2', '3', '4', '5', '6', '7',
    ];
    let mixed = hash ^ (hash >> 40);
    (0..8).filter_map(|digit| DIGITS.get((mixed >> (digit * 5)) as usize % DIGITS.len())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_name_is_kept_whole() {
        assert_eq!(with_suffix("orders", "migrate"), "orders-migrate");
    }

    #[test]
    fn a_long_name_is_cut_and_stays_distinct() {
        let (one, other) = ("a".repeat(63), "a".repeat(62) + "b");
        let (one, other) = (with_suffix(&one, "migrate"), with_suffix(&other, "migrate"));
        assert_eq!(one.len(), 63);
        assert_ne!(one, other);
    }

    #[test]
    fn hashes_never_change() {
        assert_eq!(hash(&("orders:1", "orders")).unwrap(), "fnm47pel", "names of live objects depend on it");
    }
}
