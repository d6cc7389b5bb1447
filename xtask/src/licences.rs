//! Every dependency comes under a licence that suits Apache-2.0. Needs no network.

use crate::Outcome;
use crate::cargo_tree::{self, Package};
use crate::workspace::Workspace;

/// Permissive licences, and those whose duties end at the file that carries them.
const ALLOWED: [&str; 12] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Fails with every dependency whose licence is not allowed.
pub(crate) fn check(workspace: &Workspace) -> Outcome {
    let packages = cargo_tree::packages(workspace)?;
    let offending: Vec<String> = packages.iter().filter_map(objection).collect();
    if offending.is_empty() {
        crate::report::note(&format!("{} packages, all under allowed licences", packages.len()));
        return Ok(());
    }
    Err(format!(
        "These dependencies are not under an allowed licence; the list is in xtask/src/licences.rs:\n    {}",
        offending.join("\n    ")
    ))
}

fn objection(package: &Package) -> Option<String> {
    match is_allowed(&package.licence) {
        Ok(true) => None,
        Ok(false) => Some(format!("{}: {}", package.name, package.licence)),
        Err(reason) => Some(format!("{}: {:?} {reason}", package.name, package.licence)),
    }
}

/// Whether we may use what is offered under this SPDX expression.
///
/// `AND` binds closer than `OR`; the slash of old manifests means `OR`.
fn is_allowed(expression: &str) -> Result<bool, &'static str> {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = Words(spaced.split_whitespace().collect());
    words.0.reverse();
    let allowed = words.any_of()?;
    if words.0.is_empty() { Ok(allowed) } else { Err("has something behind its end") }
}

/// The words still to read, next one last.
struct Words<'a>(Vec<&'a str>);

impl Words<'_> {
    fn take(&mut self, word: &str) -> bool {
        let is_next = self.0.last() == Some(&word);
        if is_next {
            self.0.pop();
        }
        is_next
    }

    fn any_of(&mut self) -> Result<bool, &'static str> {
        let mut allowed = self.all_of()?;
        while self.take("OR") {
            allowed |= self.all_of()?;
        }
        Ok(allowed)
    }

    fn all_of(&mut self) -> Result<bool, &'static str> {
        let mut allowed = self.one()?;
        while self.take("AND") {
            allowed &= self.one()?;
        }
        Ok(allowed)
    }

    fn one(&mut self) -> Result<bool, &'static str> {
        if self.take("(") {
            let allowed = self.any_of()?;
            return if self.take(")") { Ok(allowed) } else { Err("lacks a closing parenthesis") };
        }
        let licence =
            self.0.pop().filter(|word| !["OR", "AND", "WITH", ")"].contains(word)).ok_or("lacks a licence")?;
        if !self.take("WITH") {
            return Ok(ALLOWED.contains(&licence));
        }
        let exception = self.0.pop().ok_or("lacks an exception behind WITH")?;
        Ok(ALLOWED.contains(&format!("{licence} WITH {exception}").as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions() {
        for (expression, want) in [
            ("MIT", Ok(true)),
            ("GPL-3.0-only", Ok(false)),
            ("MIT OR GPL-3.0-only", Ok(true)),
            ("GPL-3.0-only OR MIT", Ok(true)),
            ("MIT AND GPL-3.0-only", Ok(false)),
            ("MIT AND ISC", Ok(true)),
            ("MIT/Apache-2.0", Ok(true)),
            ("Apache-2.0 / MIT", Ok(true)),
            ("GPL-2.0/LGPL-2.1", Ok(false)),
            ("MIT OR ISC AND GPL-3.0-only", Ok(true)),
            ("(MIT OR ISC) AND GPL-3.0-only", Ok(false)),
            ("(MIT OR Apache-2.0) AND Unicode-3.0", Ok(true)),
            ("Apache-2.0 WITH LLVM-exception", Ok(true)),
            ("Apache-2.0 WITH LLVM-exception OR MIT", Ok(true)),
            ("GPL-2.0 WITH Classpath-exception-2.0", Ok(false)),
            ("", Err("lacks a licence")),
            ("MIT OR", Err("lacks a licence")),
            ("(MIT", Err("lacks a closing parenthesis")),
            ("MIT)", Err("has something behind its end")),
            ("MIT ISC", Err("has something behind its end")),
            ("Apache-2.0 WITH", Err("lacks an exception behind WITH")),
        ] {
            assert_eq!(is_allowed(expression), want, "{expression:?}");
        }
    }

    #[test]
    fn an_objection_names_crate_and_licence() {
        let package = |licence: &str| Package { name: "odd v1.0.0".to_owned(), licence: licence.to_owned() };
        assert_eq!(objection(&package("MIT")), None);
        assert_eq!(objection(&package("AGPL-3.0")).as_deref(), Some("odd v1.0.0: AGPL-3.0"));
        assert_eq!(objection(&package("")).as_deref(), Some("odd v1.0.0: \"\" lacks a licence"));
    }
}
