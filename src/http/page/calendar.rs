//! The restore points of a VM by day: a month as a grid.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use maud::{Markup, html};

use super::address;
use crate::service::view::PointMark;
use crate::types::size::Count;
use crate::types::{RepositoryName, VmName};

const DAYS: [(&str, &str); 7] = [
    ("Mon", "Monday"),
    ("Tue", "Tuesday"),
    ("Wed", "Wednesday"),
    ("Thu", "Thursday"),
    ("Fri", "Friday"),
    ("Sat", "Saturday"),
    ("Sun", "Sunday"),
];

/// The day of an instant, in UTC.
pub(super) fn day_of(instant: Timestamp) -> Date {
    instant.to_zoned(TimeZone::UTC).date()
}

/// A month, as its first day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Month(Date);

impl Month {
    pub(super) fn of(day: Date) -> Self {
        Self(day.first_of_month())
    }

    /// Parses `2026-11`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        format!("{text}-01").parse().ok().map(Self)
    }

    /// The spelling in addresses.
    pub(super) fn spelled(self) -> String {
        self.0.strftime("%Y-%m").to_string()
    }

    fn title(self) -> String {
        self.0.strftime("%B %Y").to_string()
    }

    pub(super) fn has(self, day: Date) -> bool {
        Self::of(day) == self
    }

    /// Its weeks, from Monday on; days of other months are `None`.
    fn weeks(self) -> Vec<[Option<Date>; 7]> {
        let lead = usize::try_from(self.0.weekday().to_monday_zero_offset()).unwrap_or(0);
        let mut weeks = Vec::new();
        let mut week = [None; 7];
        let mut at = lead;
        let mut day = Some(self.0);
        while let Some(date) = day.filter(|date| self.has(*date)) {
            if let Some(place) = week.get_mut(at) {
                *place = Some(date);
            }
            at += 1;
            if at == week.len() {
                weeks.push(std::mem::take(&mut week));
                at = 0;
            }
            day = date.checked_add(1.day()).ok();
        }
        if at > 0 {
            weeks.push(week);
        }
        weeks
    }
}

/// The months that have points, the newest first.
pub(super) fn months(marks: &[PointMark]) -> Vec<Month> {
    let mut all: Vec<Month> = marks
        .iter()
        .map(|mark| Month::of(day_of(mark.captured_at)))
        .collect();
    all.sort_unstable_by(|a, b| b.cmp(a));
    all.dedup();
    all
}

/// A month of a VM's points.
pub(super) struct Calendar<'a> {
    pub(super) repository: &'a RepositoryName,
    pub(super) vm: &'a VmName,
    pub(super) month: Month,
    pub(super) months: &'a [Month],
    /// The points of the month.
    pub(super) marks: &'a [PointMark],
    /// The day whose points are listed.
    pub(super) day: Option<Date>,
}

impl Calendar<'_> {
    fn address(&self, month: Month) -> String {
        address::with(
            &address::vm(self.repository, self.vm),
            "month",
            &month.spelled(),
        )
    }

    /// The grid, with what leads to other months.
    pub(super) fn show(&self) -> Markup {
        let newer = self.months.iter().rev().find(|month| **month > self.month);
        let older = self.months.iter().find(|month| **month < self.month);
        html! {
            nav.pages aria-label="Months" {
                @if let Some(older) = older { a href=(self.address(*older)) rel="prev" { (older.title()) } }
                @if let Some(newer) = newer { a href=(self.address(*newer)) rel="next" { (newer.title()) } }
            }
            @if self.months.len() > 2 {
                form.filter method="get" action=(address::vm(self.repository, self.vm)) {
                    div {
                        label for="month" { "Month" }
                        select #month name="month" {
                            @for month in self.months {
                                option value=(month.spelled()) selected[*month == self.month] { (month.title()) }
                            }
                        }
                    }
                    button type="submit" { "Show" }
                }
            }
            table.calendar {
                caption { (self.month.title()) ", days in UTC" }
                thead { tr { @for (short, long) in DAYS { th scope="col" abbr=(long) { (short) } } } }
                tbody {
                    @for week in self.month.weeks() {
                        tr { @for day in week { (self.cell(day)) } }
                    }
                }
            }
        }
    }

    fn cell(&self, day: Option<Date>) -> Markup {
        let Some(day) = day else {
            return html! { td.outside {} };
        };
        let of_day: Vec<&PointMark> = self
            .marks
            .iter()
            .filter(|mark| day_of(mark.captured_at) == day)
            .collect();
        let class = match (of_day.is_empty(), of_day.iter().any(|mark| mark.is_damaged)) {
            (true, _) => "empty",
            (false, true) => "damaged",
            (false, false) => "filled",
        };
        html! {
            td class=(class) aria-current=[(self.day == Some(day)).then_some("date")] {
                span.day { (day.day()) }
                @match of_day.as_slice() {
                    [] => {}
                    [one] => {
                        a href=(address::point(self.repository, self.vm, &one.name))
                            aria-label={ (day) ": " (one.name) @if one.is_damaged { " (damaged)" } } { "1" }
                    }
                    several => {
                        a href=(address::with(&self.address(self.month), "day", &day.day()))
                            aria-label={ (day) ": " (Count::of(several.len(), "restore point")) } { (several.len()) }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Month, months};
    use crate::service::view::PointMark;
    use crate::types::PointName;

    #[test]
    fn a_month_has_its_days_in_weeks() {
        let november = Month::parse("2026-11").unwrap();
        let weeks = november.weeks();
        assert_eq!(weeks.len(), 6, "it begins on a Sunday");
        assert_eq!(weeks[0].iter().flatten().count(), 1);
        assert_eq!(weeks.iter().flatten().flatten().count(), 30);
        assert_eq!(Month::parse("2027-02").unwrap().weeks().len(), 4);
        for bad in ["", "2026", "2026-13", "2026-11-01", "x"] {
            assert!(Month::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn months_with_points_are_listed_once() {
        let mark = |at: &str| PointMark {
            name: PointName::new("p").unwrap(),
            seq: 1,
            captured_at: at.parse().unwrap(),
            is_damaged: false,
        };
        let marks = [
            "2026-11-30T23:59:59Z",
            "2026-12-01T00:00:00Z",
            "2026-11-01T00:00:00Z",
        ]
        .map(mark);
        let spelled: Vec<String> = months(&marks).into_iter().map(Month::spelled).collect();
        assert_eq!(spelled, ["2026-12", "2026-11"]);
    }
}
