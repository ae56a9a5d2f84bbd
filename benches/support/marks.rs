//! The marks of docs/internals/design.md, and the table that shows them.

/// A measured figure with its limit and its target.
pub struct Mark {
    pub what: String,
    pub must: f64,
    pub target: f64,
    /// `None` if a requirement of the measurement was missing.
    pub measured: Option<f64>,
    pub unit: Unit,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Seconds,
    Milliseconds,
    PerSecond,
    /// How many times as fast.
    TimesFaster,
    /// How many times as much.
    TimesMore,
    Mebibytes,
}

impl Mark {
    pub fn new(what: &str, must: f64, target: f64, unit: Unit, measured: Option<f64>) -> Self {
        Self { what: what.to_owned(), must, target, measured, unit }
    }

    fn verdict(&self) -> &'static str {
        let more_is_better = matches!(self.unit, Unit::PerSecond | Unit::TimesFaster);
        let holds = |bound: f64, measured| if more_is_better { measured >= bound } else { measured <= bound };
        match self.measured {
            None => "left out",
            Some(measured) if holds(self.target, measured) => "target",
            Some(measured) if holds(self.must, measured) => "must",
            Some(_) => "**missed**",
        }
    }
}

impl Unit {
    fn show(self, figure: f64) -> String {
        match self {
            Self::Seconds => format!("{figure:.2} s"),
            Self::Milliseconds => format!("{figure:.2} ms"),
            Self::PerSecond if figure < 100_000.0 => format!("{:.1}k", figure / 1e3),
            Self::PerSecond => format!("{:.0}k", figure / 1e3),
            Self::TimesFaster | Self::TimesMore => format!("{figure:.2}×"),
            Self::Mebibytes => format!("{figure:.0} MiB"),
        }
    }

    /// Formats a bound as the design does.
    fn plain(self, figure: f64) -> String {
        match self {
            Self::Seconds => format!("{figure} s"),
            Self::Milliseconds => format!("{figure} ms"),
            Self::PerSecond => format!("{}k", figure / 1e3),
            Self::TimesFaster | Self::TimesMore => format!("{figure}×"),
            Self::Mebibytes => format!("{figure} MiB"),
        }
    }
}

/// The table as BENCHMARKS.md has it.
pub fn table(marks: &[Mark]) -> String {
    let mut text =
        String::from("| What | Must | Target | Measured | Reached |\n| --- | --- | --- | --- | --- |\n");
    for mark in marks {
        let bound = |figure| {
            let sign = if matches!(mark.unit, Unit::PerSecond | Unit::TimesFaster) { "≥" } else { "≤" };
            format!("{sign} {}", mark.unit.plain(figure))
        };
        let measured = mark.measured.map_or("–".to_owned(), |figure| mark.unit.show(figure));
        let (must, target) = (bound(mark.must), bound(mark.target));
        text.push_str(&format!("| {} | {must} | {target} | {measured} | {} |\n", mark.what, mark.verdict()));
    }
    text
}
