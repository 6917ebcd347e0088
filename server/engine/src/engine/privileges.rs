//! Rights of roles: what the settings of a target ask of the role that dbkeep comes with, what that role lacks, and what it could do besides.
//! Told in the log when a server starts, by `dbkeepd --check`, with a target, and as statements that make such a role.

use super::{Engine, TargetEntry, plan_error};
use crate::{
    EngineError,
    model::{
        FindingLevel,
        privilege::{Access, Feature},
    },
    planner::{self, PlanError},
    port::{TargetError, TargetErrorClass},
};

/// Longest name of a role, bytes, as PostgreSQL has it.
const MAX_ROLE: usize = 63;

/// The rights of a role, and which features of its target are in use.
#[derive(Debug, Clone)]
pub struct Rights {
    /// The target.
    pub target: String,
    /// What its settings use.
    pub features: Vec<Feature>,
    /// What the role needs and has.
    pub access: Access,
}

impl TargetEntry {
    /// The features that the target's settings use. Whole backups, restores, maintenance and discovery are asked for by people.
    #[must_use]
    pub fn features(&self, monitored: bool) -> Vec<Feature> {
        let cleaned = !self.catalog.operations().is_empty();
        Feature::ALL
            .into_iter()
            .filter(|feature| match feature {
                Feature::Basis => true,
                Feature::Cleanup | Feature::Undo => cleaned,
                Feature::Monitoring => monitored,
                Feature::Migrations => self.migrations.is_some(),
                Feature::Backups | Feature::Restores | Feature::Maintenance | Feature::Discovery => false,
            })
            .collect()
    }

    /// The rights of a role, or of the target's own; `None` where the database has no roles.
    ///
    /// # Errors
    /// Where the target cannot be reached.
    pub async fn access(&self, role: Option<&str>, chosen: &[Feature]) -> Result<Option<Access>, PlanError> {
        let Some(privileges) = self.target.privileges() else {
            return Ok(None);
        };
        let needs = planner::needs(self.target.as_ref(), &self.roots, self.catalog.operations()).await?;
        Ok(Some(privileges.access(&needs, role, chosen).await?))
    }
}

impl Engine {
    /// The rights that a role needs in a target. Without a name it is the target's own role; without features they are those in use.
    ///
    /// # Errors
    /// `UnknownTarget`, `InvalidField`, and `Target`: of class `Unsupported` where the database has no roles.
    pub async fn rights(&self, target: &str, role: &str, features: &[Feature]) -> Result<Rights, EngineError> {
        let (name, entry) = self.target(target)?;
        if role.len() > MAX_ROLE || role.chars().any(char::is_control) {
            return Err(EngineError::InvalidField {
                field: "role",
                problem: format!("has {} bytes; expected 1 to {MAX_ROLE} printable ones", role.len()),
            });
        }
        let in_use = entry.features(self.context.settings.monitor.enabled);
        let mut chosen = if features.is_empty() {
            in_use.clone()
        } else {
            features.to_vec()
        };
        if !chosen.contains(&Feature::Basis) {
            chosen.push(Feature::Basis);
        }
        let role = (!role.is_empty()).then_some(role);
        let access = entry.access(role, &chosen).await.map_err(plan_error(name))?;
        let access = access.ok_or_else(|| {
            EngineError::target(name)(TargetError::new(
                TargetErrorClass::Unsupported,
                "the database has no roles: whoever may write its file may do everything in it, so that the file's mode is what protects it",
            ))
        })?;
        Ok(Rights {
            target: name.to_owned(),
            features: in_use,
            access,
        })
    }
}

/// Tells in the log what a role lacks and what it could do besides.
pub(super) fn tell(target: &str, features: &[Feature], access: Result<Option<Access>, PlanError>) {
    let access = match access {
        Ok(Some(access)) => access,
        Ok(None) => return,
        Err(error) => return tracing::warn!(target, %error, "the rights of the target's role were not looked at"),
    };
    for grant in access.missing(features) {
        tracing::warn!(
            target,
            role = access.role,
            privilege = grant.privilege,
            object = grant.object,
            feature = grant.feature.name(),
            why = grant.why,
            grant = grant.statement,
            "the target's role lacks a right: {} on {}",
            grant.privilege,
            grant.object
        );
    }
    for excess in &access.excess {
        let (role, what, why) = (&access.role, &excess.what, &excess.why);
        match excess.level {
            FindingLevel::Info => tracing::info!(target, role, why, "the target's role can do more than it needs: {what}"),
            FindingLevel::Warn | FindingLevel::Block => {
                tracing::warn!(target, role, why, "the target's role can do more than it needs: {what}");
            }
        }
    }
}
