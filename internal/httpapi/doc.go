// Package httpapi serves the HTTP API over the domain. Its contract is
// api/openapi.yaml, and a test holds the handlers to it.
//
// A request goes one way: who is it ([Identify]), what do they ask for (path,
// method, Accept, body), let the [Service] do it, write the answer. Every step
// may end in an error; all errors become problem documents (RFC 9457) in one
// place, by one table from code to HTTP status.
//
// Nothing of a body is ever logged, and an error's cause goes to the log only.
package httpapi
