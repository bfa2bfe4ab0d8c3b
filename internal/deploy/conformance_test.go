//go:build conformance

package deploy

import (
	"encoding/json"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// parse is a Python program that reads parameters as the SAM CLI does.
const parse = `
import json, sys
from samcli.cli.types import CfnParameterOverridesType
json.dump(CfnParameterOverridesType().convert(tuple(sys.argv[1:]), None, None), sys.stdout)
`

// Patterns and empty values pass through the SAM CLI too.
func TestSAMCLIReadsParametersUnchanged(t *testing.T) {
	d := newWorld().deployment()
	given, err := ParseParameters("TrustedSessionRoles=AWSReservedSSO_*,Ops.+=@- AllowedSources= AllowedDestinationsIpv6=fd00::/8,2001:db8::/32 " +
		"Admins=arn:aws:iam::111122223333:role/Operator,jwt:https://issuer.example/#a|b$c JwtIssuer=https://issuer.example/?a=b&c=d")
	if err != nil {
		t.Fatal(err)
	}
	d.Settings.Parameters = given
	want := d.parameters(testRepo + "@" + testDigest)
	args := deployTemplate(builtTemplate, "bastion", "eu-west-1", want)
	args = args[slices.Index(args, "--parameter-overrides")+1:]
	python := "../../" + strings.TrimSuffix(samCLI, "sam") + "python"
	out, err := exec.CommandContext(t.Context(), python, append([]string{"-c", parse}, args...)...).Output()
	if err != nil {
		t.Fatalf("run %s: %v", python, err)
	}
	got := map[string]string{}
	if err := json.Unmarshal(out, &got); err != nil || !maps.Equal(got, want) {
		t.Errorf("%v\ngot  %q\nwant %q", err, got, want)
	}
}
