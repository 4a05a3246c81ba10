//! Update masks: which fields of a resource an update changes.

use prost_types::FieldMask;

use crate::problem::Problem;

/// Most bytes of a path that an error shows.
const SHOWN_BYTES_MAX: usize = 128;

/// Fields that an update changes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum UpdateMask {
    /// Fields that hold something: an update without a mask.
    Populated,
    /// All fields; those that hold nothing are cleared: `*`.
    Everything,
    /// Fields named by their paths.
    Paths(Vec<String>),
}

impl UpdateMask {
    /// Reads a mask for a resource whose changeable paths are `known`.
    ///
    /// # Errors
    /// If the mask has another path.
    pub(super) fn read(mask: Option<FieldMask>, known: &[&str]) -> Result<Self, Problem> {
        let paths = mask.map(|mask| mask.paths).unwrap_or_default();
        if paths.is_empty() {
            return Ok(Self::Populated);
        }
        if paths == ["*"] {
            return Ok(Self::Everything);
        }
        if let Some(unknown) = paths.iter().find(|path| !known.contains(&path.as_str())) {
            let shown = &unknown[..unknown.floor_char_boundary(SHOWN_BYTES_MAX)];
            let known = known.join(", ");
            let problem = format!("names {shown:?}, which no update changes: use {known}, or \"*\" alone");
            return Err(Problem::field("update_mask", problem));
        }
        Ok(Self::Paths(paths))
    }

    /// Sets `stored` to `given` if the mask covers the field at `path`.
    pub(super) fn assign<T: Default + PartialEq>(&self, path: &str, stored: &mut T, given: T) {
        let is_covered = match self {
            Self::Populated => given != T::default(),
            Self::Everything => true,
            Self::Paths(paths) => paths.iter().any(|named| contains(named, path)),
        };
        if is_covered {
            *stored = given;
        }
    }

    /// As [`Self::assign`], but an absent secret is cleared by the field's own path alone: clients cannot read a secret,
    /// so a resource that they send back as they read it lacks it.
    pub(super) fn assign_secret(&self, path: &str, stored: &mut Option<String>, given: Option<String>) {
        let is_named = matches!(self, Self::Paths(paths) if paths.iter().any(|named| named == path));
        if is_named || given.is_some() {
            self.assign(path, stored, given);
        }
    }

    /// True if the mask covers the message at `path` or a field of it, which is given.
    pub(super) fn touches(&self, path: &str) -> bool {
        match self {
            Self::Populated | Self::Everything => true,
            Self::Paths(paths) => paths.iter().any(|named| contains(path, named)),
        }
    }
}

/// True if `inner` is `outer` or a field below it.
fn contains(outer: &str, inner: &str) -> bool {
    inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::Detail;

    const KNOWN: [&str; 3] = ["description", "webhook", "webhook.token"];

    fn mask(paths: &[&str]) -> Option<FieldMask> {
        Some(FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() })
    }

    fn assigned(mask: Option<FieldMask>, path: &str, given: &str) -> String {
        let mut stored = "stored".to_owned();
        UpdateMask::read(mask, &KNOWN).unwrap().assign(path, &mut stored, given.to_owned());
        stored
    }

    #[test]
    fn only_covered_fields_are_assigned() {
        for absent in [None, mask(&[])] {
            assert_eq!(assigned(absent.clone(), "description", "new"), "new");
            assert_eq!(assigned(absent, "description", ""), "stored", "it holds nothing");
        }
        let table = [
            (vec!["*"], "description", ""),
            (vec!["description"], "description", ""),
            (vec!["webhook"], "webhook.token", ""),
            (vec!["webhook.token"], "webhook.token", ""),
            (vec!["webhook.token"], "description", "stored"),
            (vec!["webhook.token"], "webhook.tokens", "stored"),
        ];
        for (paths, path, expected) in table {
            assert_eq!(assigned(mask(&paths), path, ""), expected, "{paths:?} {path}");
        }
    }

    #[test]
    fn a_secret_is_cleared_by_its_own_path_or_by_an_empty_one() {
        for (paths, given, expected) in [
            (vec!["*"], None, Some("stored")),
            (vec!["webhook"], None, Some("stored")),
            (vec!["webhook.token"], None, None),
            (vec!["*"], Some("new"), Some("new")),
            (vec!["webhook"], Some("new"), Some("new")),
            (vec!["webhook"], Some(""), Some("")),
            (vec![], Some(""), Some("")),
            (vec!["description"], Some("new"), Some("stored")),
        ] {
            let mut stored = Some("stored".to_owned());
            let mask = UpdateMask::read(mask(&paths), &KNOWN).unwrap();
            mask.assign_secret("webhook.token", &mut stored, given.map(str::to_owned));
            assert_eq!(stored.as_deref(), expected, "{paths:?} {given:?}");
        }
    }

    #[test]
    fn an_unknown_path_is_refused_by_name() {
        let long = "x".repeat(1000);
        for paths in [vec!["descripton"], vec!["webhook", "id"], vec!["*", "webhook"], vec![""], vec![&long]]
        {
            let problem = UpdateMask::read(mask(&paths), &KNOWN).unwrap_err();
            let Detail::Fields(fields) = problem.detail() else { panic!("{problem:?}") };
            assert_eq!(fields[0].field, "update_mask");
            let unknown = paths.iter().find(|path| !KNOWN.contains(path)).unwrap();
            let shown = &unknown[..unknown.len().min(128)];
            assert!(problem.message().contains(&format!("{shown:?}")), "{}", problem.message());
        }
    }

    #[test]
    fn a_path_touches_the_message_around_it() {
        let mask = UpdateMask::read(mask(&["webhook.token"]), &KNOWN).unwrap();
        assert!(mask.touches("webhook") && !mask.touches("description") && !mask.touches("web"));
    }
}
