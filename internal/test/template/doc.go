// Package template evaluates template.yaml after the SAM transform, for given parameters.
// Its tests, which check the result, run as a part of `make conformance`.
package template
