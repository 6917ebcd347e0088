//! What it means for a step that earlier steps of the plan take rows of the same table, where either of them is about sets.

use crate::model::Condition;

/// A condition as it stands after these earlier ones.
///
/// # Errors
/// A sentence, where an earlier step takes rows that cannot be told before it has run.
pub(super) fn after(condition: Condition, earlier: &[Condition]) -> Result<Condition, String> {
    if earlier.iter().any(|condition| matches!(condition, Condition::Cycle { .. })) {
        return Err("it comes after a rule of kind cycle on the same table, whose rows are known only when it runs; \
                    expected the rule of kind cycle as the last one on its table"
            .to_owned());
    }
    Ok(match condition {
        Condition::Duplicate { columns, order, .. } => Condition::Duplicate {
            columns,
            order,
            among: earlier.to_vec(),
        },
        other => other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cycle() -> Condition {
        Condition::Cycle {
            from: vec!["a".into()],
            to: vec!["b".into()],
        }
    }

    fn duplicate() -> Condition {
        Condition::Duplicate {
            columns: vec!["a".into()],
            order: Vec::new(),
            among: Vec::new(),
        }
    }

    #[test]
    fn nothing_comes_after_a_cycle() {
        let refusal = after(duplicate(), &[cycle()]).expect_err("refused");
        assert!(refusal.contains("the last one on its table"), "{refusal}");
        after(cycle(), &[duplicate()]).expect("a cycle comes last");
    }

    #[test]
    fn duplicates_are_looked_for_among_what_is_left() {
        let Ok(Condition::Duplicate { among, .. }) = after(duplicate(), &[duplicate()]) else {
            panic!("a duplicate stays one");
        };
        assert_eq!(among.len(), 1);
    }
}
