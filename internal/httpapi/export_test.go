package httpapi

// Statuses is the table from code to HTTP status, for the test that holds it to
// the codes there are.
var Statuses = statuses
