// Package config reads Tipstaff's one configuration file.
//
// It promises that a file is taken whole or not at all (I10): an unknown field,
// a wrong type, a key given twice and whatever the sections' own Validate finds
// are reported together, each at its line, and nothing of such a file is used.
// Files that it names (Includer) are read as strictly, as parts of it.
// It refuses YAML anchors and aliases and files over 1 MiB.
//
// It knows no role: the command joins the roles' sections in one struct and
// hands it in.
package config
