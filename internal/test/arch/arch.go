// Package arch contains the rules of the architecture: which package may import
// which, how long a main may be, and which packages may import the AWS SDK. Its
// test checks all packages of the module and lists every violation.
package arch

import (
	"fmt"
	"path"
	"slices"
	"sort"
	"strings"
)

// Module is the path of this module.
const Module = "github.com/bastion-on-demand/bastion"

// maxMainLines limits the file with func main, because a main only wires. Flags may
// be read in another file.
const maxMainLines = 40

// Package is the data of one package that the rules check.
type Package struct {
	Path        string   // below Module, as "internal/bastion"
	MainLines   int      // length of the file with func main; 0 without one
	Imports     []string // of the files other than tests
	TestImports []string
	HasTests    bool
	LeakChecked bool // has a TestMain that runs leakcheck.Main
}

// imports says which packages of this module each package may import; a pattern is
// as path.Match has it. Every package must be in the table, and every entry must
// name at least one package.
var imports = map[string][]string{
	// The domain imports the standard library only.
	"internal/bastion": {},

	// Helpers import at most the domain.
	"internal/api":       {"internal/bastion"},
	"internal/httpedge":  {"internal/bastion", "internal/api"},
	"internal/publickey": {"internal/bastion"},
	"internal/leasefile": {"internal/bastion"},
	"internal/config":    {"internal/bastion"},
	"internal/leaseloop": {"internal/bastion"},

	// Adapters import the domain and helpers, and never each other.
	"internal/awscloud":   {"internal/bastion"},
	"internal/localcloud": {"internal/bastion"},
	"internal/sshd":       {"internal/bastion", "internal/leaseloop", "internal/publickey"},
	"internal/httpapi":    {"internal/bastion", "internal/api", "internal/httpedge", "internal/publickey"},
	"internal/slack":      {"internal/bastion", "internal/api", "internal/httpedge", "internal/publickey"},

	// The operator's tools import no part of the service but the domain, helpers, and the
	// names of its resources in awscloud.
	"internal/image":  {},
	"internal/deploy": {"internal/api", "internal/awscloud", "internal/bastion", "internal/config", "internal/image"},

	// Code that only tests use. No other package imports it, except in its tests.
	"internal/test/arch":       {},
	"internal/test/browser":    {"internal/test/emulator"},
	"internal/test/clients":    {},
	"internal/test/emulator":   {"internal/test/freeport"},
	"internal/test/freeport":   {},
	"internal/test/leakcheck":  {},
	"internal/test/monitoring": {},
	"internal/test/privilege":  {},
	"internal/test/sshclient":  {},
	"internal/test/soak":       {},
	"internal/test/template":   {"internal/test/emulator"},
	"internal/test/upgrade":    {},
	"internal/test/cloudtest":  {"internal/bastion"},
	"internal/test/awswire":    {"internal/bastion", "internal/localcloud"},
	"internal/test/simtask":    {"internal/bastion", "internal/leaseloop", "internal/localcloud"},
	"internal/test/system":     {"internal/*", "internal/test/*"},

	// Wiring may import every package of the product.
	"internal/localmode":  {"internal/*"},
	"internal/lambdamode": {"internal/*"},
	"cmd/*":               {"internal/*"},
	"functions/*":         {"internal/*"},
}

// mayImportLocalmode are the packages that may import localmode, which imports nearly
// everything: the command, and the soak, which runs it.
var mayImportLocalmode = []string{"cmd/bastion", "internal/test/soak"}

// sdk is the import path prefix of the AWS SDK, and awscloud the only package of
// the service that may import it.
const (
	sdk      = "github.com/aws/aws-sdk-go"
	awscloud = "internal/awscloud"
)

// operators are the packages of the deployment tool, which also may import the SDK.
// No function of the service imports them.
var operators = []string{"internal/image", "internal/deploy"}

// Violations returns one sentence for each violation, in a stable order.
func Violations(packages []Package) []string {
	var found []string
	report := func(p Package, format string, args ...any) {
		found = append(found, p.Path+" "+fmt.Sprintf(format, args...))
	}
	for _, p := range packages {
		allowed, known := importsOf(p.Path)
		if !known {
			report(p, "is not in the table of imports: add what it may import")
			continue
		}
		for _, imported := range p.Imports {
			ours, isOurs := strings.CutPrefix(imported, Module+"/")
			switch {
			case isOurs && !matchesAny(allowed, ours):
				report(p, "imports %s", ours)
			case p.Path == "internal/bastion" && !standard(imported):
				report(p, "imports %s: the domain imports the standard library only", imported)
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

// Unused lists the patterns of the table of imports that match no package, in a
// stable order.
func Unused(packages []Package) []string {
	var found []string
	for pattern := range imports {
		if !slices.ContainsFunc(packages, func(p Package) bool { return matches(pattern, p.Path) }) {
			found = append(found, pattern)
		}
	}
	sort.Strings(found)
	return found
}

// checkEverywhere applies the rules that tests must follow, too.
func checkEverywhere(p Package, imported string, report func(Package, string, ...any)) {
	ours, isOurs := strings.CutPrefix(imported, Module+"/")
	switch {
	case isOurs && (strings.HasPrefix(ours, "cmd/") || strings.HasPrefix(ours, "functions/")):
		report(p, "imports %s: nothing imports a main", ours)
	case isOurs && ours == "internal/localmode" && !slices.Contains(mayImportLocalmode, p.Path) && p.Path != ours:
		report(p, "imports internal/localmode: only %s may", strings.Join(mayImportLocalmode, " and "))
	case strings.HasPrefix(imported, sdk) && p.Path != awscloud && !slices.Contains(operators, p.Path):
		report(p, "imports %s: only %s may", imported, awscloud)
	}
}

func importsOf(pkg string) ([]string, bool) {
	if allowed, ok := imports[pkg]; ok {
		return allowed, true
	}
	for pattern, allowed := range imports {
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

// standard reports whether an import path belongs to the standard library: its
// first element has no dot.
func standard(imported string) bool {
	first, _, _ := strings.Cut(imported, "/")
	return !strings.Contains(first, ".")
}
