package httpapi

// Statuses is the table from code to HTTP status, for the test that compares it
// with the codes.
var Statuses = statuses
