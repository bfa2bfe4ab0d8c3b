// Package template holds no code. Its tests read template.yaml as CloudFormation
// is given it, after the SAM transform, and as it comes out for given parameters;
// they run with the others of `make conformance`.
package template
