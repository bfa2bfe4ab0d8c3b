// Package arch holds the rules that keep the house in order: which package may
// import which, how long a main may be, where the cloud's SDK may be named. Its
// test reads the real packages and fails on the first arrow that points the
// wrong way.
package arch

import (
	"fmt"
	"path"
	"slices"
	"sort"
	"strings"
)

// Module is the path that all packages of ours begin with.
const Module = "github.com/bastion-on-demand/bastion"

// maxMainLines is how long the file with func main may be: mains wire. Reading
// flags may take another file.
const maxMainLines = 40

// Package is what the rules look at.
type Package struct {
	Path        string   // below Module, as "internal/bastion"
	MainLines   int      // of the file with func main; 0 if there is none
	Imports     []string // of the files that are not tests
	TestImports []string
	HasTests    bool
	LeakChecked bool // has a TestMain that runs leakcheck.Main
}

// arrows says which packages of ours each package may import; a pattern is as
// path.Match has it. A package that is missing here is a violation: whoever adds
// one decides where it stands.
var arrows = map[string][]string{
	// The domain, which knows nobody.
	"internal/bastion": {},

	// Leaf helpers, which know at most the domain.
	"internal/arch":      {},
	"internal/leakcheck": {},
	"internal/publickey": {"internal/bastion"},
	"internal/leasefile": {"internal/bastion"},
	"internal/config":    {"internal/bastion"},
	"internal/cloudtest": {"internal/bastion"},
	"internal/template":  {}, // tests of template.yaml

	// Adapters, which know the domain and leaf helpers, and never each other.
	"internal/awscloud":   {"internal/bastion"},
	"internal/localcloud": {"internal/bastion"},
	"internal/sshd":       {"internal/bastion", "internal/publickey"},
	"internal/httpapi":    {"internal/bastion", "internal/publickey"},
	"internal/slack":      {"internal/bastion", "internal/publickey"},
	"internal/client":     {"internal/bastion"},

	// The tools of whoever deploys, which know nothing of the service.
	"internal/image":  {},
	"internal/deploy": {"internal/image"},

	// EC2 and ECS at the wire, for tests: a face of the local cloud.
	"internal/awscloud/wiretest": {"internal/bastion", "internal/localcloud"},

	// Programs that judge ours, started for tests, and a person in front of a browser.
	"internal/referee": {},
	"internal/browser": {},

	// Wiring, which may know everything.
	"internal/localmode":  {"internal/*"},
	"internal/system":     {"internal/*"}, // a test
	"internal/lambdamode": {"internal/*"},
	"cmd/*":               {"internal/*"},
	"functions/*":         {"internal/*"},
}

// mayImportLocalmode are the only packages that may: it pulls everything in.
const mayImportLocalmode = "cmd/bastion"

// sdk is the prefix of AWS's SDK, and awscloud the only package of the service
// that may name it.
const (
	sdk      = "github.com/aws/aws-sdk-go"
	awscloud = "internal/awscloud"
)

// operators are the tools of whoever deploys. They may name the SDK as well: they
// are no part of the service, and call AWS for what its domain knows nothing of.
var operators = []string{"internal/image", "internal/deploy"}

// Violations lists what breaks the rules, as sentences, in a stable order.
func Violations(packages []Package) []string {
	var found []string
	report := func(p Package, format string, args ...any) {
		found = append(found, p.Path+" "+fmt.Sprintf(format, args...))
	}
	for _, p := range packages {
		allowed, known := arrowsOf(p.Path)
		if !known {
			report(p, "has no place in the table of arrows: say what it may import")
			continue
		}
		for _, imported := range p.Imports {
			ours, isOurs := strings.CutPrefix(imported, Module+"/")
			switch {
			case isOurs && !matchesAny(allowed, ours):
				report(p, "imports %s", ours)
			case p.Path == "internal/bastion" && !standard(imported):
				report(p, "imports %s: the domain has the standard library only", imported)
			}
		}
		for _, imported := range append(slices.Clone(p.Imports), p.TestImports...) {
			checkEverywhere(p, imported, report)
		}
		if p.MainLines > maxMainLines {
			report(p, "has a main of %d lines; %d is the limit", p.MainLines, maxMainLines)
		}
		if p.HasTests && !p.LeakChecked {
			report(p, "has tests but no TestMain that runs leakcheck.Main")
		}
	}
	sort.Strings(found)
	return slices.Compact(found)
}

// checkEverywhere holds tests, too, to the rules that know no exception.
func checkEverywhere(p Package, imported string, report func(Package, string, ...any)) {
	ours, isOurs := strings.CutPrefix(imported, Module+"/")
	switch {
	case isOurs && (strings.HasPrefix(ours, "cmd/") || strings.HasPrefix(ours, "functions/")):
		report(p, "imports %s: nothing imports a main", ours)
	case isOurs && ours == "internal/localmode" && p.Path != mayImportLocalmode && p.Path != ours:
		report(p, "imports internal/localmode: only %s may", mayImportLocalmode)
	case strings.HasPrefix(imported, sdk) && p.Path != awscloud && !slices.Contains(operators, p.Path):
		report(p, "imports %s: only %s may", imported, awscloud)
	}
}

func arrowsOf(pkg string) ([]string, bool) {
	if allowed, ok := arrows[pkg]; ok {
		return allowed, true
	}
	for pattern, allowed := range arrows {
		if matches(pattern, pkg) {
			return allowed, true
		}
	}
	return nil, false
}

func matchesAny(patterns []string, pkg string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool { return matches(pattern, pkg) })
}

func matches(pattern, pkg string) bool {
	ok, err := path.Match(pattern, pkg)
	return ok && err == nil
}

// standard reports whether an import path is the standard library's: those have
// no dot in their first element.
func standard(imported string) bool {
	first, _, _ := strings.Cut(imported, "/")
	return !strings.Contains(first, ".")
}
