//! Which index of a table makes which other superfluous, and which serves a declared key: the same for every database, once an adapter
//! has said what an index is made of.

/// One column or expression by which an index is ordered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    /// The column; `None` for an expression.
    pub(super) column: Option<String>,
    /// All that decides how it can be used: column or expression, operator class with its settings, collation, order. Equal means alike.
    pub(super) exactly: String,
}

/// What an index is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shape {
    /// What it is ordered by.
    pub(super) parts: Vec<Part>,
    /// Columns that it holds beside these.
    pub(super) included: Vec<String>,
    /// Condition of a partial index; empty for none.
    pub(super) condition: String,
    /// Access method.
    pub(super) method: String,
    /// What was set of the whole index and decides how it can be used, such as the pages of a range of BRIN.
    pub(super) settings: String,
    /// Whether it is there for more than finding rows, and so is never superfluous.
    pub(super) kept: bool,
    /// Whether statements can use it, and all of it is known.
    pub(super) usable: bool,
    /// Older indexes have smaller numbers.
    pub(super) age: i64,
}

impl Shape {
    /// Whether its beginning serves alone.
    fn is_ordered(&self) -> bool {
        self.method == "btree"
    }

    fn holds(&self, column: &str) -> bool {
        let mut parts = self.parts.iter().filter_map(|part| part.column.as_deref());
        parts.any(|held| held == column) || self.included.iter().any(|held| held == column)
    }

    /// Whether whatever `other` can do, this one can do as well.
    fn does_the_work_of(&self, other: &Self) -> bool {
        let begins = self.parts.starts_with(&other.parts) && (self.is_ordered() || self.parts.len() == other.parts.len());
        self.usable
            && begins
            && self.method == other.method
            && self.settings == other.settings
            && self.condition == other.condition
            && other.included.iter().all(|column| self.holds(column))
    }

    /// Whether rows that name a parent by these columns are found by it.
    pub(super) fn serves(&self, columns: &[String]) -> bool {
        let finds = matches!(self.method.as_str(), "btree" | "hash");
        let Some(beginning) = self.parts.get(..columns.len()) else {
            return false;
        };
        let named = |column: &String| beginning.iter().any(|part| part.column.as_ref() == Some(column));
        // No parent is named by NULL.
        let condition = self.condition.trim_start_matches('(').trim_end_matches(')');
        let not_null = |column: &String| {
            let quoted = format!("\"{}\"", column.replace('"', "\"\""));
            [column, &quoted].iter().any(|name| {
                let whole = format!("{name} is not null");
                condition.eq_ignore_ascii_case(&whole)
            })
        };
        let of_all = condition.is_empty() || columns.iter().any(not_null);
        self.usable && finds && of_all && columns.iter().all(named)
    }
}

/// Of each index of one table the index that makes it superfluous. What remains when all superfluous ones are gone does the work of
/// all of them.
pub(super) fn duplicates(shapes: &[Shape]) -> Vec<Option<usize>> {
    let better = |other: &Shape, one: &Shape| {
        other.does_the_work_of(one) && (other.kept || !one.does_the_work_of(other) || other.age < one.age)
    };
    let superfluous: Vec<bool> = shapes
        .iter()
        .enumerate()
        .map(|(place, one)| {
            let mut others = shapes.iter().enumerate().filter(|(other, _)| *other != place);
            !one.kept && one.usable && others.any(|(_, other)| better(other, one))
        })
        .collect();
    shapes
        .iter()
        .zip(&superfluous)
        .enumerate()
        .map(|(place, (one, is_superfluous))| {
            let remaining = shapes.iter().zip(&superfluous).enumerate();
            let able = remaining.filter(|(other, (shape, gone))| *other != place && !**gone && shape.does_the_work_of(one));
            let best = able.min_by_key(|(_, (shape, _))| (!shape.kept, shape.parts.len(), shape.age));
            best.filter(|_| *is_superfluous).map(|(other, _)| other)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(columns: &[&str], age: i64) -> Shape {
        Shape {
            parts: columns
                .iter()
                .map(|column| Part {
                    column: Some((*column).to_owned()),
                    exactly: (*column).to_owned(),
                })
                .collect(),
            included: Vec::new(),
            condition: String::new(),
            method: "btree".to_owned(),
            settings: String::new(),
            kept: false,
            usable: true,
            age,
        }
    }

    #[test]
    fn equal_ones_and_beginnings_are_superfluous() {
        let (one, both, three) = (shape(&["a"], 1), shape(&["a", "b"], 2), shape(&["a", "b", "c"], 3));
        assert_eq!(duplicates(&[one.clone(), both.clone(), three]), [Some(2), Some(2), None]);
        assert_eq!(
            duplicates(&[shape(&["b"], 1), both.clone()]),
            [None, None],
            "not its beginning"
        );
        assert_eq!(
            duplicates(&[shape(&["a"], 2), one.clone()]),
            [Some(1), None],
            "the older stays"
        );
        let kept = Shape {
            kept: true,
            ..shape(&["a"], 9)
        };
        assert_eq!(duplicates(&[one.clone(), kept]), [Some(1), None], "what enforces stays");
    }

    #[test]
    fn what_differs_is_no_duplicate() {
        let one = shape(&["a"], 2);
        let other = shape(&["a", "b"], 1);
        let differing = [
            Shape {
                condition: "a > 1".to_owned(),
                ..other.clone()
            },
            Shape {
                method: "hash".to_owned(),
                ..other.clone()
            },
            Shape {
                usable: false,
                ..other.clone()
            },
            Shape {
                settings: "pages_per_range=1".to_owned(),
                ..other.clone()
            },
            Shape {
                parts: vec![Part {
                    column: Some("a".to_owned()),
                    exactly: "a DESC".to_owned(),
                }],
                ..other.clone()
            },
        ];
        for other in differing {
            assert_eq!(duplicates(&[one.clone(), other.clone()]), [None, None], "{other:?}");
        }
        let including = Shape {
            included: vec!["c".to_owned()],
            ..one.clone()
        };
        assert_eq!(
            duplicates(&[including.clone(), other]),
            [None, None],
            "it reads no table for c"
        );
        assert_eq!(duplicates(&[including, shape(&["a", "c"], 1)]), [Some(1), None]);
        let gin = |columns: &[&str]| Shape {
            method: "gin".to_owned(),
            ..shape(columns, 1)
        };
        assert_eq!(duplicates(&[gin(&["a"]), gin(&["a", "b"])]), [None, None], "no beginnings");
    }

    #[test]
    fn a_key_is_served_by_its_columns_in_any_order() {
        let columns = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let index = shape(&["a", "b", "c"], 1);
        assert!(index.serves(&columns(&["b", "a"])));
        assert!(!index.serves(&columns(&["b"])));
        assert!(!index.serves(&columns(&["a", "c"])));
        let partial = |condition: &str| Shape {
            condition: condition.to_owned(),
            ..shape(&["a"], 1)
        };
        assert!(partial("(a IS NOT NULL)").serves(&columns(&["a"])));
        assert!(!partial("(b IS NOT NULL)").serves(&columns(&["a"])));
        assert!(!partial("(a > 0)").serves(&columns(&["a"])));
    }
}
