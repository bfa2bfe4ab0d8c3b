package httpapi

import (
	"net/http"

	"github.com/aws/aws-lambda-go/events"
)

// Statuses is the table from code to HTTP status, for the test that holds it to
// the codes there are.
var Statuses = statuses

// EventOf is what the gateway answers when a handler wrote this.
func EventOf(header http.Header, body []byte) events.APIGatewayV2HTTPResponse {
	w := &response{header: header}
	_, _ = w.Write(body)
	return w.event()
}
