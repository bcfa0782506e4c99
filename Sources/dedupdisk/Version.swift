/// The version of the program, the one place that says it: what `--version` prints. CHANGELOG.md begins with the same.
let programVersion = "0.1.0"
