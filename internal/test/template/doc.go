// Package template only has tests. They evaluate template.yaml after the SAM transform,
// for given parameters, and run as a part of `make conformance`.
package template
