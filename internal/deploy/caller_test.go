package deploy

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation/types"

	"github.com/bastion-on-demand/bastion/internal/httpapi"
)

// The functions take the events that undeploying sends for those of the admin that
// draining made, and of nobody else.
func TestTheFunctionsKnowUsAsAnAdmin(t *testing.T) {
	for _, issuer := range []string{"", "https://issuer.example"} {
		w := newWorld()
		w.add("bastion", types.StackStatusCreateComplete).params["JwtIssuer"] = issuer
		d := w.deployment()
		s, err := fetchStack(t.Context(), w, "bastion")
		if err != nil {
			t.Fatal(err)
		}
		me, err := d.operator(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		a := &api{me: me}
		sent, err := json.Marshal(a.event("GET", "/bastions"))
		if err != nil {
			t.Fatal(err)
		}
		var event events.APIGatewayV2HTTPRequest
		if err := json.Unmarshal(sent, &event); err != nil {
			t.Fatal(err)
		}
		admins := strings.Split(withAdmin("iam:111122223333:AIDAOTHER", me.admin), ",")
		caller, err := httpapi.Owners{Admins: admins, JWTIssuer: issuer}.Caller(event.RequestContext)
		if err != nil || !caller.Admin || caller.Owner != me.admin {
			t.Errorf("issuer %q: %+v, %v; want the admin %s", issuer, caller, err, me.admin)
		}
		caller, err = httpapi.Owners{Admins: admins[:1], JWTIssuer: issuer}.Caller(event.RequestContext)
		if err != nil || caller.Admin {
			t.Errorf("issuer %q: without draining: %+v, %v", issuer, caller, err)
		}
	}
}
