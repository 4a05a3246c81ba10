//! The checkout as the rules see it: files with their lines, tests told apart from the product.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// One Rust file of the project.
pub(crate) struct Source {
    /// From the root, with forward slashes.
    pub(crate) path: String,
    pub(crate) text: String,
    /// First line of an inline test module; the number of lines if there is none.
    product_lines: usize,
}

impl Source {
    fn read(root: &Path, path: &Path) -> Self {
        let text = fs::read_to_string(path).expect("a file that was just listed");
        let product_lines = text
            .lines()
            .position(|line| line.starts_with("#[cfg(test)]"))
            .unwrap_or_else(|| text.lines().count());
        let path =
            path.strip_prefix(root).expect("below the root").to_str().expect("UTF-8").replace('\\', "/");
        Self { path, text, product_lines }
    }

    pub(crate) fn is_test(&self) -> bool {
        let file = self.path.rsplit('/').next().unwrap_or_default();
        let starts_suite = self.path.starts_with("tests/") && !self.path.starts_with("tests/src/");
        starts_suite || self.path.contains("/tests/") || file == "tests.rs" || file.ends_with("_tests.rs")
    }

    /// Numbered from 1, without inline tests.
    pub(crate) fn product(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().take(self.product_lines).enumerate().map(|(index, line)| (index + 1, line))
    }

    /// The inline tests only, or everything in a test file.
    pub(crate) fn tests(&self) -> impl Iterator<Item = (usize, &str)> {
        let skipped = if self.is_test() { 0 } else { self.product_lines };
        self.text.lines().enumerate().skip(skipped).map(|(index, line)| (index + 1, line))
    }

    pub(crate) fn crate_name(&self) -> Option<&str> {
        self.path.strip_prefix("crates/")?.split('/').next()
    }
}

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the root").to_owned()
}

/// Every Rust file of the project, in order of path.
pub(crate) fn sources() -> Vec<Source> {
    let root = root();
    files(&["crates", "tests", "benches"], "rs").iter().map(|path| Source::read(&root, path)).collect()
}

/// Files below `folders` of the root whose names end in `.extension`.
pub(crate) fn files(folders: &[&str], extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = folders.iter().map(|folder| root().join(folder)).collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() && entry.file_name() != "target" {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}
