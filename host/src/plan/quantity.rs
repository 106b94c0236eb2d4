//! Kubernetes quantities, compared by value: `1000m` and `1`, `1Gi` and `1024Mi` are the same.
//!
//! Grammar and suffixes: `k8s.io/apimachinery/pkg/api/resource/quantity.go`.

/// A quantity's value in 10⁻⁹ units. None for what is not a quantity, or does not fit (more than 10²⁹).
#[must_use]
pub fn parse(text: &str) -> Option<i128> {
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at_checked(end)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') || whole.len() + fraction.len() > 27 {
        return None;
    }
    let mut value: i128 = format!("{whole}{fraction}").parse().ok()?;
    let mut decimals = 9 - i32::try_from(fraction.len()).ok()?;
    let mut binary = 0u32;
    match suffix {
        "n" => decimals -= 9,
        "u" => decimals -= 6,
        "m" => decimals -= 3,
        "" => {}
        "k" => decimals += 3,
        "M" => decimals += 6,
        "G" => decimals += 9,
        "T" => decimals += 12,
        "P" => decimals += 15,
        "E" => decimals += 18,
        "Ki" => binary = 10,
        "Mi" => binary = 20,
        "Gi" => binary = 30,
        "Ti" => binary = 40,
        "Pi" => binary = 50,
        "Ei" => binary = 60,
        _ => decimals += suffix.strip_prefix(['e', 'E'])?.parse::<i32>().ok().filter(|e| e.abs() <= 30)?,
    }
    value = value.checked_mul(1i128 << binary)?;
    let scale = 10i128.checked_pow(decimals.unsigned_abs())?;
    value = if decimals >= 0 {
        value.checked_mul(scale)?
    } else {
        // the API server rounds up to the nano
        value.checked_add(scale - 1)? / scale
    };
    Some(if negative { -value } else { value })
}

/// Are both quantities, and of the same value?
#[must_use]
pub fn same(a: &str, b: &str) -> bool {
    matches!((parse(a), parse(b)), (Some(a), Some(b)) if a == b)
}

/// Are both quantities, and is the first one less?
#[must_use]
pub fn is_less(a: &str, b: &str) -> bool {
    matches!((parse(a), parse(b)), (Some(a), Some(b)) if a < b)
}

/// A size in whole bytes.
#[must_use]
pub fn bytes(text: &str) -> Option<u64> {
    u64::try_from(parse(text)? / 1_000_000_000).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("1", "1000m")]
    #[case("0.5", "500m")]
    #[case("1Gi", "1024Mi")]
    #[case("1e3", "1k")]
    #[case("1.5Gi", "1536Mi")]
    #[case("100u", "0.1m")]
    #[case("+1", "1.000")]
    #[case("-1", "-1000m")]
    fn the_same_value_in_two_spellings(#[case] a: &str, #[case] b: &str) {
        assert!(same(a, b), "{:?} {:?}", parse(a), parse(b));
    }

    #[rstest]
    #[case("1", "2")]
    #[case("1Gi", "1G")]
    #[case("", "")]
    #[case("abc", "abc")]
    #[case("1.2.3", "1.2.3")]
    #[case("1Xi", "1Xi")]
    fn different_or_no_quantity(#[case] a: &str, #[case] b: &str) {
        assert!(!same(a, b));
    }

    #[test]
    fn sizes_are_whole_bytes() {
        assert_eq!(bytes("64Mi"), Some(64 << 20));
        assert_eq!(bytes("-1"), None);
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC*") {
            let _ = parse(&text);
        }
        #[test]
        fn numbers_round_trip(n in -1_000_000i64..1_000_000) {
            proptest::prop_assert_eq!(parse(&n.to_string()), Some(i128::from(n) * 1_000_000_000));
        }
    }
}
