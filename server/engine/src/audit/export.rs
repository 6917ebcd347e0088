//! What leaves the house of a log: JSON lines that can be verified with no server.
//!
//! ```text
//! {"seal":{..}}     one for each range that was closed, in order
//! {"record":{..}}   one for each record that is there, in order
//! {"trailer":{"seals":2,"records":1500,"head":{"number":21500,"hash":"..","at":".."}}}
//! ```
//!
//! Without its trailer an export was cut off. Whoever can write the file can make all of it anew: an anchor that was kept elsewhere tells.

use serde::{Deserialize, Serialize};

use super::{Anchor, Inspection, Problem, ProblemKind, Record, Seal, Verified};

/// A line of an export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// A range that was closed.
    Seal(Seal),
    /// A record.
    Record(Box<Record>),
    /// The end.
    Trailer(Trailer),
}

/// The end of an export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trailer {
    /// Number of seals before it.
    pub seals: u64,
    /// Number of records before it.
    pub records: u64,
    /// The newest record when the export began; number 0 for an empty log.
    pub head: Anchor,
}

/// Verifies an export line by line.
#[derive(Debug)]
pub struct Reader {
    anchors: Vec<Anchor>,
    seals: Vec<Seal>,
    sealed: u64,
    records: u64,
    inspection: Option<Inspection>,
    trailer: Option<Trailer>,
    lines: u64,
}

impl Reader {
    /// Begins, with anchors that were kept elsewhere.
    #[must_use]
    pub fn new(anchors: Vec<Anchor>) -> Self {
        Self {
            anchors,
            seals: Vec::new(),
            sealed: 0,
            records: 0,
            inspection: None,
            trailer: None,
            lines: 0,
        }
    }

    /// The next line, without its end.
    ///
    /// # Errors
    /// Where it does not fit.
    pub fn next(&mut self, line: &str) -> Result<(), Problem> {
        self.lines += 1;
        let read: Line = serde_json::from_str(line).map_err(|error| self.wrong(format!("is no line of an export: {error}")))?;
        if self.trailer.is_some() {
            return Err(self.wrong("comes after the trailer".to_owned()));
        }
        match read {
            Line::Seal(_) if self.inspection.is_some() => Err(self.wrong("is a seal after records".to_owned())),
            Line::Seal(seal) => {
                self.sealed += 1;
                self.seals.push(seal);
                Ok(())
            }
            Line::Record(record) => {
                self.records += 1;
                self.inspection()?.next(&record)
            }
            Line::Trailer(trailer) => {
                self.inspection()?;
                if (trailer.seals, trailer.records) != (self.sealed, self.records) {
                    return Err(self.wrong(format!(
                        "speaks of {} seals and {} records; {} and {} were there",
                        trailer.seals, trailer.records, self.sealed, self.records
                    )));
                }
                self.trailer = Some(trailer);
                Ok(())
            }
        }
    }

    /// The end of the file.
    ///
    /// # Errors
    /// Where the export was cut off, or anything is wrong that only shows at the end.
    pub fn end(mut self) -> Result<Verified, Problem> {
        let last = self.inspection()?.last();
        match (self.inspection, self.trailer) {
            (Some(inspection), Some(trailer)) => inspection.end((trailer.head.number, trailer.head.hash)),
            _ => Err(Problem {
                number: last + 1,
                kind: ProblemKind::Truncated,
                detail: format!("the export ends with record {last} and has no trailer"),
            }),
        }
    }

    fn inspection(&mut self) -> Result<&mut Inspection, Problem> {
        if self.inspection.is_none() {
            let (seals, anchors) = (std::mem::take(&mut self.seals), std::mem::take(&mut self.anchors));
            self.inspection = Some(Inspection::begin(seals, anchors)?);
        }
        self.inspection.as_mut().ok_or_else(|| Problem {
            number: 0,
            kind: ProblemKind::Unreadable,
            detail: "the export was not begun".to_owned(),
        })
    }

    fn wrong(&self, problem: String) -> Problem {
        Problem {
            number: self.inspection.as_ref().map_or(0, Inspection::last) + 1,
            kind: ProblemKind::Unreadable,
            detail: format!("line {} {problem}", self.lines),
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::{
        super::{Digest, Subject, chain},
        *,
    };

    fn lines(records: u64) -> Vec<String> {
        let mut log: Vec<Record> = Vec::new();
        for number in 1..=records {
            log.push(chain::append(log.last(), Subject::of(Uuid::from_u128(number.into()))));
        }
        let head = log.last().map_or((0, Digest::GENESIS), |last| (last.number, last.hash));
        let mut lines: Vec<Line> = log.into_iter().map(|record| Line::Record(Box::new(record))).collect();
        lines.push(Line::Trailer(Trailer {
            seals: 0,
            records,
            head: Anchor {
                number: head.0,
                hash: head.1,
                at: jiff::Timestamp::UNIX_EPOCH,
            },
        }));
        lines.iter().map(|line| serde_json::to_string(line).expect("JSON")).collect()
    }

    fn read(lines: &[String]) -> Result<Verified, Problem> {
        let mut reader = Reader::new(Vec::new());
        for line in lines {
            reader.next(line)?;
        }
        reader.end()
    }

    #[test]
    fn an_export_is_verified_as_it_was_written() {
        assert_eq!(read(&lines(20)).expect("it is whole").records, 20);
        assert_eq!(read(&lines(0)).expect("nothing is whole, too").head, (0, Digest::GENESIS));
    }

    #[test]
    fn whatever_is_done_to_a_file_shows() {
        let whole = lines(10);
        let kind = |lines: &[String]| read(lines).expect_err("it does not fit").kind;
        assert_eq!(kind(&[]), ProblemKind::Truncated);
        assert_eq!(kind(&whole[..10]), ProblemKind::Truncated, "the trailer is gone");
        let mut cut = whole.clone();
        cut.remove(9);
        assert_eq!(kind(&cut), ProblemKind::Unreadable, "the trailer counts");
        let mut twice = whole.clone();
        twice.push(whole[10].clone());
        assert_eq!(kind(&twice), ProblemKind::Unreadable);
        let mut changed = whole.clone();
        changed[3] = changed[3].replace("\"principal\":\"\"", "\"principal\":\"x\"");
        assert_eq!(kind(&changed), ProblemKind::Changed);
        let mut odd = whole.clone();
        odd[3] = odd[3].replace("\"principal\"", "\"owner\"");
        assert_eq!(kind(&odd), ProblemKind::Unreadable);
        let mut swapped = whole;
        swapped.swap(3, 4);
        assert_eq!(kind(&swapped), ProblemKind::Missing);
    }
}
