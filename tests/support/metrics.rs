//! A strict reader of OpenMetrics text, for the answers of `/metrics`. It rejects everything that the format forbids, and checks the
//! same as promtool.

use std::collections::{BTreeMap, BTreeSet};

/// What was counted, by name and labels as they stand: `profiled_uploads`, `profiled_limits_hit_total{limit="rows"}`.
#[derive(Debug)]
pub struct Exposition {
    samples: BTreeMap<String, f64>,
    families: BTreeMap<String, Family>,
}

#[derive(Debug, Default)]
struct Family {
    kind: Option<String>,
    help: Option<String>,
    samples: Vec<Sample>,
}

#[derive(Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Exposition {
    /// Reads a whole answer.
    pub fn parse(text: &str) -> Result<Self, String> {
        let body = text.strip_suffix("# EOF\n").ok_or("the text does not end with # EOF")?;
        let (mut families, mut samples) = (BTreeMap::<String, Family>::new(), BTreeMap::new());
        let mut current = String::new();
        for line in body.lines() {
            let wrong = |what: &str| Err(format!("{what}: {line:?}"));
            if let Some(described) = line.strip_prefix("# ") {
                let mut words = described.splitn(3, ' ');
                let (Some(word), Some(name), Some(rest)) = (words.next(), words.next(), words.next()) else {
                    return wrong("a line of description that says too little");
                };
                if !is_name(name) {
                    return wrong("no name");
                }
                if name != current {
                    if families.contains_key(name) {
                        return wrong("a family in two places");
                    }
                    name.clone_into(&mut current);
                }
                let family = families.entry(name.to_owned()).or_default();
                let place = match word {
                    "HELP" => &mut family.help,
                    "TYPE" => &mut family.kind,
                    _ => return wrong("neither HELP nor TYPE"),
                };
                if place.replace(rest.to_owned()).is_some() || !family.samples.is_empty() {
                    return wrong("a description that is late, or there twice");
                }
                continue;
            }
            let (key, value) = line.rsplit_once(' ').ok_or_else(|| format!("no value: {line:?}"))?;
            let value: f64 = value.parse().map_err(|_| format!("no number: {line:?}"))?;
            let (name, labels) = key.split_once('{').unwrap_or((key, "}"));
            if !is_name(name) {
                return wrong("no name");
            }
            let labels = labels_of(labels).map_err(|why| format!("{why}: {line:?}"))?;
            if samples.insert(key.to_owned(), value).is_some() {
                return wrong("a sample that is there twice");
            }
            let family = families.get_mut(&current).ok_or_else(|| format!("no family: {line:?}"))?;
            family.samples.push(Sample { name: name.to_owned(), labels, value });
        }
        for (name, family) in &families {
            family.check(name).map_err(|why| format!("{name}: {why}"))?;
        }
        Ok(Self { samples, families })
    }

    /// The value of a sample; 0 for one that is not there (yet).
    pub fn value(&self, sample: &str) -> f64 {
        self.samples.get(sample).copied().unwrap_or_default()
    }

    /// Whether a sample is there. One that is missing also has the value 0.
    pub fn has(&self, sample: &str) -> bool {
        self.samples.contains_key(sample)
    }

    /// How often a limit was hit. It must be one that is counted.
    pub fn hits(&self, limit: &str) -> u64 {
        let sample = format!("profiled_limits_hit_total{{limit=\"{limit}\"}}");
        let value = self.samples.get(&sample).unwrap_or_else(|| panic!("there is no {sample}"));
        value.to_string().parse().unwrap()
    }

    /// The names of all that is counted, without endings.
    pub fn names(&self) -> BTreeSet<&str> {
        self.families.keys().map(String::as_str).collect()
    }

    /// The values of a label, wherever it stands.
    pub fn values_of(&self, label: &str) -> BTreeSet<&str> {
        let samples = self.families.values().flat_map(|family| &family.samples);
        samples.filter_map(|sample| sample.labels.get(label)).map(String::as_str).collect()
    }
}

impl Family {
    fn check(&self, name: &str) -> Result<(), String> {
        let help = self.help.as_deref().ok_or("no HELP")?;
        if help.is_empty() || !(name.starts_with("profiled_") || name.starts_with("process_")) {
            return Err("a help that says nothing, or a name that does not say whose it is".into());
        }
        match self.kind.as_deref() {
            Some("counter") => {
                let right = |it: &Sample| it.name == format!("{name}_total") && it.value >= 0.0;
                self.samples.iter().all(right).then_some(()).ok_or("a counter's sample ends in _total".into())
            }
            Some("gauge") => {
                let right = |it: &Sample| it.name == name;
                self.samples.iter().all(right).then_some(()).ok_or("a gauge's sample bears its name".into())
            }
            Some("histogram") => self.check_histogram(name),
            other => Err(format!("no type that is known: {other:?}")),
        }
    }

    fn check_histogram(&self, name: &str) -> Result<(), String> {
        let (mut buckets, mut counts) = (BTreeMap::<_, Vec<(f64, f64)>>::new(), BTreeMap::new());
        let mut sums = BTreeSet::new();
        for sample in &self.samples {
            let mut labels = sample.labels.clone();
            let bound = labels.remove("le");
            match (sample.name.strip_prefix(name), bound) {
                (Some("_bucket"), Some(bound)) => {
                    let bound =
                        if bound == "+Inf" { f64::INFINITY } else { bound.parse().unwrap_or(f64::NAN) };
                    buckets.entry(labels).or_default().push((bound, sample.value));
                }
                (Some("_count"), None) => drop(counts.insert(labels, sample.value)),
                (Some("_sum"), None) => drop(sums.insert(labels)),
                _ => return Err(format!("{} is no part of a histogram", sample.name)),
            }
        }
        for (labels, buckets) in &buckets {
            let rise = buckets.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1);
            let last = buckets.last().copied().unwrap_or_default();
            if !rise || last.0 != f64::INFINITY || counts.get(labels) != Some(&last.1) {
                return Err(format!("the buckets of {labels:?} do not rise to their count: {buckets:?}"));
            }
        }
        let labels: BTreeSet<_> = buckets.into_keys().collect();
        if counts.into_keys().collect::<BTreeSet<_>>() != labels || sums != labels {
            return Err("buckets, counts and sums have different labels".into());
        }
        Ok(())
    }
}

fn is_name(text: &str) -> bool {
    let first = text.chars().next().is_some_and(|c| c.is_ascii_lowercase());
    first && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// Reads `name="value",…}`.
fn labels_of(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut rest = text.strip_suffix('}').ok_or("the labels do not end")?;
    let mut labels = BTreeMap::new();
    while !rest.is_empty() {
        let (name, after) = rest.split_once("=\"").ok_or("a label without a value")?;
        let (mut value, mut chars) = (String::new(), after.char_indices());
        let end = loop {
            match chars.next().ok_or("a label's value does not end")? {
                (at, '"') => break at,
                (_, '\\') => match chars.next() {
                    Some((_, 'n')) => value.push('\n'),
                    Some((_, c @ ('"' | '\\'))) => value.push(c),
                    _ => return Err("an escape that is not known".into()),
                },
                (_, c) => value.push(c),
            }
        };
        if !is_name(name) || labels.insert(name.to_owned(), value).is_some() {
            return Err(format!("the label {name:?} is no name, or there twice"));
        }
        rest = &after[end + 1..];
        if let Some(next) = rest.strip_prefix(',') {
            rest = next;
        } else if !rest.is_empty() {
            return Err("no comma between labels".into());
        }
    }
    Ok(labels)
}
