use std::collections::BTreeMap;

/// What a host counts, by name and labels as `/metrics` spells them.
#[derive(Clone, Debug, PartialEq)]
pub struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    pub(crate) fn parse(text: &str) -> Self {
        let sample = |line: &str| {
            let (series, value) = line.rsplit_once(' ')?;
            Some((series.to_owned(), value.parse().ok()?))
        };
        Self(text.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect())
    }

    /// All series of one name.
    #[must_use]
    pub fn series(&self, name: &str) -> BTreeMap<String, f64> {
        let is_of = |series: &str| series.split('{').next() == Some(name);
        self.0.iter().filter(|(series, _)| is_of(series)).map(|(series, value)| (series.clone(), *value)).collect()
    }

    /// Sum over the series of one name that have all these labels (`outcome="Planned"`).
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        let has_all = |series: &String| labels.iter().all(|label| series.contains(label));
        self.series(name).iter().filter(|(series, _)| has_all(series)).map(|(_, value)| value).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_told_apart_by_name_and_labels() {
        let text = "# HELP calls Calls.\ncalls{outcome=\"A\",plugin=\"p\"} 2\ncalls{outcome=\"B\",plugin=\"p\"} 3\n\
            calls_seconds{plugin=\"p\"} 0.5\n";
        let metrics = Metrics::parse(text);
        assert_eq!(metrics.series("calls").len(), 2);
        assert_eq!(metrics.sum("calls", &["plugin=\"p\""]), 5.0);
        assert_eq!(metrics.sum("calls", &["plugin=\"p\"", "outcome=\"B\""]), 3.0);
    }
}
