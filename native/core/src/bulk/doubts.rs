//! Which blobs were sealed by a principal who has been revoked since. Their envelopes say so, wherever the
//! blobs have been moved and whoever has merged the runs that list them.

use super::catalog::Catalog;
use super::runs::Spot;
use crate::crypto::{Envelope, PrincipalId};
use crate::error::Result;
use crate::format::run::EnvelopeSection;
use crate::scope::Scope;

/// What is doubted of one pack.
enum Doubt {
    Nothing,
    Everything,
    /// By offset: from where on, and whether it is.
    Some(Box<[(u32, bool)]>),
}

/// By number of a pack; none at all where nobody was revoked.
#[derive(Default)]
pub(super) struct Doubts(Vec<Doubt>);

impl Doubts {
    /// Whether there can be any, for which envelope sections are needed.
    pub(super) fn are_possible(scope: &Scope) -> bool {
        scope.keys.verifier().has_revoked()
    }

    /// Of packs whose sections were noted, if there can be any.
    pub(super) fn of(scope: &Scope, catalog: &Catalog) -> Result<Self> {
        if !Self::are_possible(scope) {
            return Ok(Self::default());
        }
        let numbers = (0_u32..).take(catalog.packs().len());
        let doubts = numbers.map(|number| Doubt::of(scope, catalog.section(number)));
        doubts.collect::<Result<_>>().map(Self)
    }

    /// Whether what lies there was sealed by somebody who was revoked.
    pub(super) fn has(&self, spot: Spot) -> bool {
        match self.0.get(spot.pack as usize) {
            None | Some(Doubt::Nothing) => false,
            Some(Doubt::Everything) => true,
            Some(Doubt::Some(spans)) => {
                let after = spans.partition_point(|(start, _)| *start <= spot.offset);
                after.checked_sub(1).and_then(|at| spans.get(at)).is_some_and(|(_, is)| *is)
            }
        }
    }
}

impl Doubt {
    fn of(scope: &Scope, section: &[u8]) -> Result<Self> {
        let (section, _) = EnvelopeSection::parse(section)?;
        let is_revoked =
            |envelope| scope.keys.verifier().is_revoked(&Envelope::origin_of(envelope));
        let revoked_count = section.envelopes().iter().filter(|one| is_revoked(one)).count();
        Ok(match revoked_count {
            0 => Self::Nothing,
            count if count == section.envelopes().len() => Self::Everything,
            _ => Self::Some(section.spans().map(|(start, one)| (start, is_revoked(one))).collect()),
        })
    }
}

/// Whose envelopes a run lists. A writer's run lists its own packs only: otherwise whoever is revoked
/// could have called what it stored another's.
#[derive(Default)]
pub(crate) struct Origins {
    first: Option<PrincipalId>,
    is_mixed: bool,
}

impl Origins {
    pub(crate) fn note(&mut self, section: &EnvelopeSection<'_>) {
        for origin in section.envelopes().iter().map(Envelope::origin_of) {
            self.is_mixed |= *self.first.get_or_insert(origin) != origin;
        }
    }

    /// Whether nobody else is among them.
    pub(crate) fn are_of(&self, principal: PrincipalId) -> bool {
        !self.is_mixed && self.first.is_none_or(|first| first == principal)
    }
}
