//! The effect of each write on the stored value: batch rows (R4–R7, R9, R11), site calls and single updates, and the
//! merge at a login (R2).
//!
//! Promises: no function here reads a clock, a setting or a store. Lookups, the resolving of pending rows, the
//! background application of batches and replay all use [`apply_rows`], so they cannot disagree.

use super::author::Author;
use super::batch::{BatchRules, EmptyValues, LeftAlone, Outcome};
use super::id::IdKind;
use super::profile::{
    Attribute, Earlier, LINKED_IDS_MAX, LinkedId, Profile, Source, Stored, remove, set_all,
};
use super::seq::Seq;
use std::collections::BTreeMap;

/// One cell of a row: an attribute's name and the value as sent. The value may be empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell<'a> {
    /// The attribute's number in the header.
    pub attribute: usize,
    /// The attribute's name.
    pub name: &'a str,
    /// The value.
    pub value: &'a str,
}

/// One parsed row of a batch.
#[derive(Debug, Clone, Copy)]
pub struct Row<'r, 'a> {
    /// The row's line in the file.
    pub line: u32,
    /// The row's cells, without the key.
    pub cells: &'r [Cell<'a>],
}

/// The effect of rows on a stored value.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "most rows change a profile, and a box would be an allocation for each"
)]
pub enum Applied<'a> {
    /// The rows change nothing: the visitor is unknown, or no row could be applied.
    Unchanged,
    /// The value already contains the rows, by its `applied_seq`.
    AlreadyIn,
    /// The profile after the rows.
    Changed(Profile<'a>),
}

/// Applies one batch's rows for one visitor, in line order, to the stored value under the visitor's canonical key. A
/// link or a tombstone counts as an unknown visitor; the caller has already followed valid links. Reports each row's
/// outcome to `outcome`, except for [`Applied::AlreadyIn`]. Rows of a batch that undoes another only name the visitor.
pub fn apply_rows<'a>(
    stored: Option<Stored<'a>>,
    rules: &BatchRules,
    rows: &[Row<'_, 'a>],
    mut outcome: impl FnMut(u32, Outcome),
) -> Applied<'a> {
    if stored.as_ref().is_some_and(|stored| stored.applied_seq() >= rules.seq) {
        return Applied::AlreadyIn;
    }
    let mut profile = match stored {
        Some(Stored::Profile(profile)) if !profile.expired(rules.seq.millis(), rules.lifetime_ms) => {
            Some(profile)
        }
        _ => None,
    };
    if let Some(of) = rules.undoes {
        let became = match &mut profile {
            Some(profile) => undo(profile, rules, of),
            None => Outcome::NotFound,
        };
        rows.iter().for_each(|row| outcome(row.line, became));
        return match profile {
            Some(profile) if became == Outcome::Updated => Applied::Changed(profile),
            _ => Applied::Unchanged,
        };
    }
    let mut changed = false;
    for row in rows {
        let became = if !row.cells.iter().any(|cell| brings(rules, cell)) {
            Outcome::Ignored
        } else if let Some(known) = &mut profile {
            apply_row_to_known(known, rules, row.cells)
        } else if rules.creates {
            let mut born = Profile::born_at(rules.seq);
            if apply_row(&mut born, rules, row.cells) {
                profile = Some(born);
                Outcome::Created
            } else {
                Outcome::Failed
            }
        } else {
            Outcome::NotFound
        };
        changed |= became.applied();
        outcome(row.line, became);
    }
    match profile {
        Some(mut profile) if changed => {
            done(&mut profile, rules);
            Applied::Changed(profile)
        }
        _ => Applied::Unchanged,
    }
}

/// Undoes a batch at one visitor: each attribute that it set or removed, and that no later write has touched, is again what it
/// was before. The outcome is [`Outcome::Ignored`] if there is none, and [`Outcome::Failed`] if the history does not say any
/// more what was before. Then nothing changes.
pub(super) fn undo(profile: &mut Profile<'_>, rules: &BatchRules, of: Seq) -> Outcome {
    let earlier: Vec<Earlier<'_>> = profile.history.values().collect();
    let Some(before) = before(profile, &earlier, of) else { return Outcome::Failed };
    if before.is_empty() {
        return Outcome::Ignored;
    }
    profile.history.keep(rules.history_max, profile.last_write);
    profile.merge_layer();
    for (name, value) in &before {
        note_end(profile, name, rules.seq, rules.source);
        if value.is_none() {
            remove(&mut profile.attributes, name);
        }
    }
    let sets = before.into_iter().filter_map(|(name, value)| {
        Some(Attribute { name, value: value?, seq: rules.seq, source: rules.source, as_of: None })
    });
    set_all(&mut profile.attributes, sets);
    done(profile, rules);
    Outcome::Updated
}

/// What the attributes were before a batch that it changed, and that nothing has touched since: names, and values where there
/// were any. `None` if the history does not say it any more.
fn before<'a>(
    profile: &Profile<'a>,
    earlier: &[Earlier<'a>],
    of: Seq,
) -> Option<Vec<(&'a str, Option<&'a str>)>> {
    if profile.born > of {
        return Some(vec![]);
    }
    let known = profile.born == of || profile.history.since().is_some_and(|since| since < of);
    // By name: the value that the batch ended, and whether a later write ended another.
    let mut ended: BTreeMap<&str, (Option<&str>, bool)> = BTreeMap::new();
    for value in earlier.iter().filter(|value| value.until >= of) {
        let (of_batch, later) = ended.entry(value.name).or_default();
        if value.until == of { *of_batch = Some(value.value) } else { *later = true }
    }
    let mut before = vec![];
    for held in profile.visible().iter().filter(|held| held.seq >= of) {
        let (value, later) = ended.remove(held.name).unwrap_or_default();
        match value {
            _ if held.seq > of || later => {}
            None if !known => return None,
            value => before.push((held.name, value)),
        }
    }
    before.extend(
        ended
            .into_iter()
            .filter(|(_, (value, later))| value.is_some() && !later)
            .map(|(name, (value, _))| (name, value)),
    );
    (known || !before.is_empty()).then_some(before)
}

/// Marks the batch as applied in the profile.
pub(super) fn done(profile: &mut Profile<'_>, rules: &BatchRules) {
    profile.last_batch = rules.seq;
    profile.last_write = rules.seq;
    profile.applied_seq = rules.seq;
}

/// Whether a cell sets or removes its attribute.
fn brings(rules: &BatchRules, cell: &Cell<'_>) -> bool {
    !cell.value.is_empty() || rules.empty_values == EmptyValues::Remove
}

/// Applies one row to a profile from before the row, without what was written later than the batch's time.
fn apply_row_to_known<'a>(profile: &mut Profile<'a>, rules: &BatchRules, cells: &[Cell<'a>]) -> Outcome {
    let updates = updates(profile, rules, cells);
    let applied = match updates {
        Outcome::UpdatedInPart(left) => {
            let kept = cells.iter().filter(|cell| !left.has(cell.attribute));
            apply_row(profile, rules, &kept.copied().collect::<Vec<_>>())
        }
        Outcome::Newer => true,
        _ => apply_row(profile, rules, cells),
    };
    if applied { updates } else { Outcome::Failed }
}

/// How a row that brings something updates a profile: wholly, in part, or not at all, because the profile has newer
/// values. The answer is the same before the row and after it, until a later write.
fn updates(profile: &Profile<'_>, rules: &BatchRules, cells: &[Cell<'_>]) -> Outcome {
    if rules.as_of.is_none() {
        return Outcome::Updated;
    }
    let (mut left, mut any_left, mut all_left) = (LeftAlone::default(), false, true);
    for cell in cells.iter().filter(|cell| brings(rules, cell)) {
        if is_newer(profile, rules, cell.name) {
            left.add(cell.attribute);
            any_left = true;
        } else {
            all_left = false;
        }
    }
    match (any_left, all_left) {
        (false, _) => Outcome::Updated,
        (true, false) => Outcome::UpdatedInPart(left),
        (true, true) => Outcome::Newer,
    }
}

/// Whether a batch leaves an attribute alone, because the held value is of a later time than the batch (R4). A batch
/// that replaces the layer (R7) leaves everything alone if the layer is of a later time: that layer's batch would have
/// replaced all that this one brings.
pub(super) fn is_newer(profile: &Profile<'_>, rules: &BatchRules, name: &str) -> bool {
    let Some(as_of) = rules.as_of else { return false };
    let held = |list: &[Attribute<'_>]| {
        let at = list.binary_search_by(|held| held.name.cmp(name)).ok()?;
        list.get(at).map(Attribute::time)
    };
    let time = if rules.writes_layer() {
        profile.layer.first().map(Attribute::time).max(held(&profile.attributes))
    } else {
        held(&profile.layer).or_else(|| held(&profile.attributes))
    };
    time.is_some_and(|time| time > as_of)
}

/// Applies one row. Returns false and changes nothing if the profile would become too large (R9).
fn apply_row<'a>(profile: &mut Profile<'a>, rules: &BatchRules, cells: &[Cell<'a>]) -> bool {
    let brought: usize = cells.iter().map(|cell| cell.name.len() + cell.value.len()).sum();
    // Most profiles are far below the limit. Only a profile that may exceed it is copied and measured.
    let fits_anyway = profile.held_bytes().saturating_add(brought) <= rules.max_profile_bytes;
    let before = (!fits_anyway).then(|| profile.clone());
    write_row(profile, rules, cells);
    match before {
        Some(before) if profile.visible_bytes() > rules.max_profile_bytes.max(before.visible_bytes()) => {
            *profile = before;
            false
        }
        _ => true,
    }
}

/// Writes a row's cells into a profile, without a size check.
pub(super) fn write_row<'a>(profile: &mut Profile<'a>, rules: &BatchRules, cells: &[Cell<'a>]) {
    profile.history.keep(rules.history_max, profile.last_write);
    let layered = rules.writes_layer();
    if !layered {
        profile.merge_layer();
    } else if profile.layer.first().is_some_and(|held| held.seq != rules.seq) {
        let gone = std::mem::take(&mut profile.layer);
        profile.history.note_layer(&gone, rules.seq, rules.source);
    }
    for cell in
        cells.iter().filter(|cell| !cell.value.is_empty() || rules.empty_values == EmptyValues::Remove)
    {
        note_end(profile, cell.name, rules.seq, rules.source);
    }
    let sets = cells.iter().filter(|cell| !cell.value.is_empty()).map(|cell| Attribute {
        name: cell.name,
        value: cell.value,
        seq: rules.seq,
        source: rules.source,
        as_of: rules.as_of,
    });
    set_all(if layered { &mut profile.layer } else { &mut profile.attributes }, sets);
    if rules.empty_values == EmptyValues::Remove {
        for cell in cells.iter().filter(|cell| cell.value.is_empty()) {
            remove(&mut profile.attributes, cell.name);
            remove(&mut profile.layer, cell.name);
        }
    }
}

/// Notes that a write ends the value that a reader sees of an attribute, if there is one.
fn note_end(profile: &mut Profile<'_>, name: &str, seq: Seq, by: Source) {
    let Profile { attributes, layer, history, .. } = profile;
    let find = |list: &[Attribute<'_>]| list.binary_search_by(|held| held.name.cmp(name)).ok();
    if let Some(old) = find(layer).and_then(|at| layer.get(at)).or_else(|| attributes.get(find(attributes)?))
    {
        history.note(old, seq, by);
    }
}

/// The outcome of a row whose effect is already in the stored profile. Valid only for rows that were applied in the
/// background and that no later write has touched: then the profile's `born` shows the outcome.
pub fn outcome_of_row_already_in(
    profile: &Profile<'_>,
    rules: &BatchRules,
    first_of_visitor: bool,
    cells: &[Cell<'_>],
) -> Outcome {
    if profile.born == rules.seq && first_of_visitor {
        Outcome::Created
    } else {
        updates(profile, rules, cells)
    }
}

/// A single write: a site call, a single update or a removal, with the settings that shape it.
#[derive(Debug, Clone, Copy)]
pub struct Write<'w> {
    /// The write's place in the order of all writes (R3).
    pub seq: Seq,
    /// The kind of call.
    pub source: Source,
    /// Who made it. A page's call has no author.
    pub by: Author,
    /// The attributes to set, in the order sent. Empty values are ignored (R6).
    pub sets: &'w [(String, String)],
    /// The names of the attributes to remove.
    pub removes: &'w [String],
    /// How long a profile lives after its last site call, in milliseconds (R11).
    pub lifetime_ms: u64,
    /// The limit on a profile's visible names and values, in bytes (R9).
    pub max_profile_bytes: usize,
    /// How many earlier values of each attribute a profile keeps; 0: none.
    pub history_max: u16,
}

/// The profile that a write applies to: the stored one, a new one for a site call (R5), or none. An expired profile
/// counts as none (R11).
pub fn profile_for<'a>(stored: Option<Stored<'a>>, write: &Write<'_>) -> Option<Profile<'a>> {
    match stored {
        Some(Stored::Profile(profile)) if !profile.expired(write.seq.millis(), write.lifetime_ms) => {
            Some(profile)
        }
        _ => write.source.is_site().then(|| Profile::born_at(write.seq)),
    }
}

/// Applies a write to a profile. Returns how many attributes were left out because the profile would have become too
/// large (R9).
pub fn apply<'a>(profile: &mut Profile<'a>, write: &Write<'a>) -> usize {
    profile.merge_layer();
    profile.history.keep(write.history_max, profile.last_write);
    for name in write.removes {
        note_end(profile, name, write.seq, write.source);
        remove(&mut profile.attributes, name);
    }
    let mut left_out = 0;
    let mut held = profile.visible_bytes();
    for (name, value) in write.sets.iter().filter(|(_, value)| !value.is_empty()) {
        let new = Attribute { name, value, seq: write.seq, source: write.source, as_of: None };
        let old = match profile.attributes.binary_search_by(|held| held.name.cmp(name.as_str())) {
            Ok(at) => profile.attributes.get(at).map_or(0, Attribute::bytes),
            Err(_) => 0,
        };
        let then = held - old + new.bytes();
        if then > write.max_profile_bytes.max(held) {
            left_out += 1;
            continue;
        }
        held = then;
        note_end(profile, name, write.seq, write.source);
        set_all(&mut profile.attributes, std::iter::once(new));
    }
    if write.source.is_site() {
        profile.last_site = write.seq;
        profile.last_active = profile.last_active.max(write.seq.millis());
    }
    profile.note_author(write.seq, write.by);
    profile.last_write = write.seq;
    profile.applied_seq = write.seq;
    left_out
}

/// Merges an anonymous visitor's profile into the profile of the visitor who logged in (R2). `into` keeps its own value
/// where both have an attribute. `seq` is that of the login. The size limit does not apply (R9).
pub fn merge<'a>(into: &mut Profile<'a>, from: &Profile<'a>, seq: Seq, history_max: u16) {
    into.merge_layer();
    let missing: Vec<Attribute<'a>> = from
        .visible()
        .into_iter()
        .filter(|theirs| into.attributes.binary_search_by(|held| held.name.cmp(theirs.name)).is_err())
        .collect();
    if history_max > 0 {
        let comes = |name: &str| missing.iter().any(|came| came.name == name);
        let held = |name: &str| into.attributes.binary_search_by(|held| held.name.cmp(name)).is_ok();
        into.history.merge(&from.history, seq, comes, held);
    }
    set_all(&mut into.attributes, missing.into_iter());
    from.authors.iter().for_each(|(seq, author)| into.note_author(*seq, *author));
    into.last_site = into.last_site.max(from.last_site);
    into.last_batch = into.last_batch.max(from.last_batch);
    into.last_active = into.last_active.max(from.last_active);
}

/// Lists an id as the most recently bound. If the list is full, the oldest id of the same kind is dropped.
pub fn list_id<'a>(profile: &mut Profile<'a>, kind: IdKind, id: &'a str, seq: Seq) {
    unlist_id(profile, kind, id);
    if profile.ids.iter().filter(|linked| linked.kind == kind).count() >= LINKED_IDS_MAX
        && let Some(oldest) = profile.ids.iter().position(|linked| linked.kind == kind)
    {
        profile.ids.remove(oldest);
    }
    profile.ids.push(LinkedId { kind, id, seq });
}

/// Removes an id from the list.
pub fn unlist_id(profile: &mut Profile<'_>, kind: IdKind, id: &str) {
    profile.ids.retain(|linked| !(linked.kind == kind && linked.id == id));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::batch::{ConsecutiveV2, RowReading};
    use crate::model::seq::Millis;

    const DAY_MS: u64 = 86_400_000;

    fn rules(at: u64) -> BatchRules {
        BatchRules {
            seq: Seq::from_parts(Millis(at), 0),
            source: Source::BatchV2,
            creates: false,
            consecutive_v2: ConsecutiveV2::Merge,
            empty_values: EmptyValues::Ignore,
            lifetime_ms: 14 * DAY_MS,
            max_profile_bytes: 100,
            reading: RowReading::default(),
            history_max: 16,
            as_of: None,
            undoes: None,
        }
    }

    fn replace(at: u64) -> BatchRules {
        BatchRules { consecutive_v2: ConsecutiveV2::Replace, ..rules(at) }
    }

    /// Applies batches of rows such as `a=1 b=` to a profile born at 1 with `a=0`. Checks the visible attributes and
    /// the outcome of each row.
    fn check(batches: &[(BatchRules, &[&'static str])], expected: &str, outcomes: &[Outcome]) {
        let sets = [("a".to_owned(), "0".to_owned())];
        let mut profile = Profile::born_at(Seq::from_parts(Millis(1), 0));
        apply(&mut profile, &site(1, &sets));
        let mut became = vec![];
        for (rules, rows) in batches {
            let cells: Vec<Vec<Cell<'static>>> = rows
                .iter()
                .map(|row| {
                    row.split_whitespace()
                        .map(|cell| cell.split_once('=').unwrap())
                        .map(|(name, value)| Cell {
                            attribute: usize::from(name.as_bytes()[0] - b'a'),
                            name,
                            value,
                        })
                        .collect()
                })
                .collect();
            let rows: Vec<Row<'_, '_>> = cells.iter().map(|cells| Row { line: 0, cells }).collect();
            let before = became.len();
            let stored = Some(Stored::Profile(profile.clone()));
            let applied = apply_rows(stored, rules, &rows, |_, outcome| became.push(outcome));
            if let Applied::Changed(new) = applied {
                profile = new;
                for (cells, outcome) in cells.iter().zip(&became[before..]) {
                    if matches!(outcome, Outcome::UpdatedInPart(_) | Outcome::Newer) {
                        assert_eq!(outcome_of_row_already_in(&profile, rules, false, cells), *outcome);
                    }
                }
            }
        }
        let seen: Vec<String> = profile.visible().iter().map(|a| format!("{}={}", a.name, a.value)).collect();
        assert_eq!((seen.join(" ").as_str(), became.as_slice()), (expected, outcomes), "{batches:?}");
    }

    fn site(at: u64, sets: &[(String, String)]) -> Write<'_> {
        Write {
            by: Author::default(),
            seq: Seq::from_parts(Millis(at), 0),
            source: Source::Mbox,
            sets,
            removes: &[],
            lifetime_ms: 14 * DAY_MS,
            max_profile_bytes: 100,
            history_max: 16,
        }
    }

    #[test]
    fn rows_fold_by_the_rules() {
        use Outcome::{Created, Failed, Ignored, NotFound, Updated};
        let big: &'static str = Box::leak(format!("z={}", "x".repeat(200)).into_boxed_str());
        let remove = |at| BatchRules { empty_values: EmptyValues::Remove, ..rules(at) };
        let late = 15 * DAY_MS;
        let creates = |at| BatchRules { creates: true, ..rules(at) };
        check(&[(rules(2), &["a=1"])], "a=1", &[Updated]);
        check(&[(rules(2), &["a=1", "a=2 b=3"])], "a=2 b=3", &[Updated, Updated]);
        check(&[(rules(2), &["a= b="])], "a=0", &[Ignored]);
        check(&[(rules(2), &["a= b=1"])], "a=0 b=1", &[Updated]);
        check(&[(remove(2), &["a= b=1"])], "b=1", &[Updated]);
        check(&[(rules(2), &[big, "b=1"])], "a=0 b=1", &[Failed, Updated]);
        check(&[(rules(3), &["a=1"]), (rules(2), &["a=2"])], "a=1", &[Updated]);
        check(&[(rules(late), &["a=1", "a="])], "a=0", &[NotFound, Ignored]);
        check(&[(creates(late), &["b=1", "c=1"])], "b=1 c=1", &[Created, Updated]);
        check(&[(creates(late), &[big, "c=1"])], "c=1", &[Failed, Created]);
        check(&[(replace(2), &["a=1 b=1"]), (replace(3), &["c=1"])], "a=0 c=1", &[Updated, Updated]);
        check(&[(replace(2), &["a=1", "b=1"])], "a=1 b=1", &[Updated, Updated]);
        check(&[(replace(2), &["a=1 b=1"]), (replace(3), &["c="])], "a=1 b=1", &[Updated, Ignored]);
        check(&[(replace(2), &["a=1 b=1"]), (replace(3), &[big])], "a=1 b=1", &[Updated, Failed]);
        check(
            &[(replace(2), &["a=1"]), (rules(3), &["b=1"]), (replace(4), &["c=1"])],
            "a=1 b=1 c=1",
            &[Updated; 3],
        );
    }

    #[test]
    fn a_batch_with_a_time_leaves_alone_what_is_of_a_later_time() {
        use Outcome::{Newer, NotFound, Updated};
        let of = |at, as_of| BatchRules { as_of: Some(Millis(as_of)), ..rules(at) };
        let removing = |rules| BatchRules { empty_values: EmptyValues::Remove, ..rules };
        let replacing = |rules| BatchRules { consecutive_v2: ConsecutiveV2::Replace, ..rules };
        let part = |left: &[usize]| {
            let mut all = LeftAlone::default();
            left.iter().for_each(|attribute| all.add(*attribute));
            Outcome::UpdatedInPart(all)
        };
        // What was written at 4 is later than a batch of 3, and no later than one of 4.
        check(&[(rules(4), &["a=1"]), (of(5, 3), &["a=2"])], "a=1", &[Updated, Newer]);
        check(&[(rules(4), &["a=1"]), (of(5, 4), &["a=2"])], "a=2", &[Updated, Updated]);
        check(&[(rules(4), &["a=1"]), (of(5, 3), &["a=2 b=3"])], "a=1 b=3", &[Updated, part(&[0])]);
        check(
            &[(rules(4), &["a=1"]), (of(5, 3), &["a=", "a=2 b="])],
            "a=1",
            &[Updated, Outcome::Ignored, Newer],
        );
        // A value has the time of its batch, however late that came.
        check(&[(of(5, 2), &["a=1"]), (of(6, 3), &["a=2"])], "a=2", &[Updated; 2]);
        check(&[(of(5, 3), &["a=1"]), (of(6, 2), &["a=2"])], "a=1", &[Updated, Newer]);
        check(&[(of(5, 3), &["a=1"]), (rules(6), &["a=2"])], "a=2", &[Updated; 2]);
        // Rows of one batch do not compete.
        check(&[(of(5, 3), &["a=1", "a=2"])], "a=2", &[Updated; 2]);
        check(
            &[(rules(4), &["b=1"]), (of(5, 3), &["a=1 b=2", "a=2", "b=3"])],
            "a=2 b=1",
            &[Updated, part(&[1]), Updated, Newer],
        );
        // Nor is what is newer removed; and what is not there has no time.
        check(&[(rules(4), &["b=1"]), (removing(of(5, 3)), &["a= b="])], "b=1", &[Updated, part(&[1])]);
        check(&[(removing(rules(4)), &["a="]), (of(5, 3), &["a=1"])], "a=1", &[Updated; 2]);
        // Another visitor, or none.
        let late = 15 * DAY_MS;
        check(&[(of(late, 0), &["a=1"])], "a=0", &[NotFound]);
        let creating = BatchRules { creates: true, ..of(late, 0) };
        check(&[(creating, &["a=1", "a=2"])], "a=2", &[Outcome::Created, Updated]);
        // A layer of a later time would have replaced the whole batch; an earlier one goes.
        check(&[(replace(4), &["b=1"]), (replacing(of(5, 3)), &["c=1"])], "a=0 b=1", &[Updated, Newer]);
        check(
            &[(replace(4), &["b=1"]), (replacing(of(6, 5)), &["c=1", "d=1"])],
            "a=0 c=1 d=1",
            &[Updated; 3],
        );
        check(
            &[(rules(4), &["a=1"]), (replacing(of(5, 3)), &["a=2 c=1"])],
            "a=1 c=1",
            &[Updated, part(&[0])],
        );
        check(&[(replace(4), &["b=1"]), (of(5, 3), &["b=2 c=1"])], "a=0 b=1 c=1", &[Updated, part(&[1])]);
    }

    #[test]
    fn a_single_write_leaves_out_attributes_beyond_the_size_limit() {
        let sets: Vec<(String, String)> =
            [("a", "1".repeat(90)), ("b", "2".repeat(20)), ("c", "3".into()), ("d", String::new())]
                .map(|(name, value)| (name.to_owned(), value))
                .into();
        let mut profile = Profile::born_at(Seq::from_u64(1));
        assert_eq!(apply(&mut profile, &site(5, &sets)), 1);
        assert_eq!(profile.attributes.iter().map(|a| a.name).collect::<String>(), "ac");
    }

    #[test]
    fn a_login_merge_keeps_the_value_of_the_one_who_logged_in() {
        let (anonymous, stored) = (
            [("category".into(), "hats".into()), ("seen".into(), "3".into())],
            [("category".into(), "skis".into()), ("store".into(), "94103".into())],
        );
        let (mut from, mut into) = (Profile::born_at(Seq::from_u64(1)), Profile::born_at(Seq::from_u64(2)));
        apply(&mut from, &site(3, &anonymous));
        apply(&mut into, &site(2, &stored));
        merge(&mut into, &from, Seq::from_u64(4), 16);
        let seen: Vec<_> = into.attributes.iter().map(|a| (a.name, a.value)).collect();
        assert_eq!(seen, [("category", "skis"), ("seen", "3"), ("store", "94103")]);
        assert_eq!(into.last_active, Millis(3));
    }

    #[test]
    fn the_list_of_ids_keeps_the_most_recently_bound() {
        let names: Vec<String> = (0..300).map(|n| n.to_string()).collect();
        let mut profile = Profile::default();
        list_id(&mut profile, IdKind::Ecid, "e", Seq::ZERO);
        for name in &names {
            list_id(&mut profile, IdKind::Pc, name, Seq::ZERO);
        }
        list_id(&mut profile, IdKind::Pc, "50", Seq::ZERO);
        assert_eq!(profile.ids.len(), LINKED_IDS_MAX + 1);
        assert!(!profile.lists(IdKind::Pc, "43") && profile.lists(IdKind::Pc, "44"));
        assert_eq!(profile.ids.last().map(|linked| linked.id), Some("50"));
    }
}
