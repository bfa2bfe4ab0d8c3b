//go:build conformance

package clients

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/bastion-on-demand/bastion/internal/test/emulator"
)

// client is one row of the table.
type client struct {
	name    string
	version string // empty: of the Linux distribution, and read by installed
	start   starter
	// installed returns the version of a client that the Linux distribution has.
	installed func(testing.TB) string

	keys          []string // the keys that it can sign with, with SHA-2
	missingKeys   string   // why it has not all of them
	noRekey       string   // why it cannot begin a key exchange; empty if it can
	strictRefuses string   // part of its message if strict mode refuses it
	hidesRefusals bool     // a forward that is refused ends without an error
}

// clients are the rows of the table, in its order.
var clients = []client{
	{name: "OpenSSH", installed: openSSHVersion, keys: keyNames,
		start: func(t testing.TB) driver { return running(t, openSSH{t: t}) }},
	{name: "OpenSSH with the algorithms of FIPS mode", installed: openSSHVersion, keys: keyNames[1:],
		missingKeys:   "these have no Ed25519",
		start:         func(t testing.TB) driver { return running(t, openSSH{t: t, options: fips}) },
		strictRefuses: "no matching key exchange method found. Their offer: mlkem768x25519-sha256,curve25519-sha256"},
	{name: "PuTTY (plink)", installed: puttyVersion, keys: keyNames,
		start: func(t testing.TB) driver {
			return running(t, plink{t, distributed(t, "plink"), distributed(t, "puttygen")})
		}},
	{name: "Dropbear (dbclient)", installed: dropbearVersion, keys: keyNames,
		start:         func(t testing.TB) driver { return running(t, newDbclient(t)) },
		noRekey:       "dbclient has no option for it",
		strictRefuses: "No matching algo enc c->s", hidesRefusals: true},
	{name: "paramiko", version: "5.1.0", start: inPython("paramiko-5.1.0", "paramiko_client.py"), keys: keyNames},
	{name: "paramiko", version: "3.4.1", start: inPython("paramiko-3.4.1", "paramiko_client.py"), keys: keyNames,
		strictRefuses: "Incompatible ssh server (no acceptable ciphers)"},
	{name: "paramiko", version: "2.12.0", start: inPython("paramiko-2.12.0", "paramiko_client.py"), keys: keyNames,
		strictRefuses: "Incompatible ssh server (no acceptable ciphers)"},
	{name: "asyncssh", version: "2.24.1", start: inPython("asyncssh-2.24.1", "asyncssh_client.py"), keys: keyNames},
	{name: "libssh2 (ssh2-python)", version: "1.11.1", start: inPython("ssh2-python-1.2.0", "libssh2_client.py"), keys: keyNames,
		noRekey: "libssh2 has no call for it"},
	{name: "libssh2 (ssh2-python)", version: "1.10.0", start: inPython("ssh2-python-1.0.0", "libssh2_client.py"),
		keys:          []string{"ed25519", "ecdsa256", "ecdsa384", "ecdsa521"},
		missingKeys:   "it signs with SHA-1 if the key is an RSA key",
		noRekey:       "libssh2 has no call for it",
		strictRefuses: "Unable to exchange encryption keys"},
	{name: "ssh2 for Node.js", version: "1.17.0", start: inNode("ssh2-1.17.0", "ssh2_client.js"), keys: keyNames,
		noRekey: "only its servers have a call for it"},
	{name: "JSch (com.github.mwiede)", version: "2.28.8", start: inJava("jsch-2.28.8", "Jsch"), keys: keyNames},
	{name: "sshj", version: "0.40.0", start: inJava("sshj-0.40.0", "Sshj"), keys: keyNames},
	{name: "Apache MINA SSHD", version: "2.20.0", start: inJava("mina-2.20.0", "Mina"), keys: keyNames},
}

// fips limits ssh to algorithms that a client in FIPS mode has: host keys of RSA and NIST's
// curves, key exchange on these curves or with Diffie-Hellman groups, and AES.
const fips = `HostKeyAlgorithms ecdsa-sha2-nistp256,ecdsa-sha2-nistp384,ecdsa-sha2-nistp521,rsa-sha2-256,rsa-sha2-512
KexAlgorithms ecdh-sha2-nistp256,ecdh-sha2-nistp384,ecdh-sha2-nistp521,diffie-hellman-group-exchange-sha256,diffie-hellman-group14-sha256,diffie-hellman-group16-sha512,diffie-hellman-group18-sha512
PubkeyAcceptedAlgorithms ecdsa-sha2-nistp256,ecdsa-sha2-nistp384,ecdsa-sha2-nistp521,rsa-sha2-256,rsa-sha2-512
Ciphers aes256-gcm@openssh.com,aes128-gcm@openssh.com,aes256-ctr,aes128-ctr
MACs hmac-sha2-256-etm@openssh.com,hmac-sha2-512-etm@openssh.com,hmac-sha2-256,hmac-sha2-512
`

// distributed returns the path of a program of the Linux distribution, which is installed
// or in a folder of .tools.
func distributed(t testing.TB, program string) string {
	t.Helper()
	if path, err := exec.LookPath(program); err == nil {
		return path
	}
	return emulator.Tool(t, "debian-*/usr/bin/"+program)
}

func newDbclient(t testing.TB) dbclient {
	d := dbclient{t: t, path: distributed(t, "dbclient"), convert: distributed(t, "dropbearconvert")}
	if folder, _, found := strings.Cut(d.path, "/usr/bin/"); found && folder != "" {
		d.libraries = strings.TrimSuffix(emulator.Tool(t, "debian-dbclient/usr/lib/*-linux-gnu*"), "/")
	}
	return d
}

func openSSHVersion(t testing.TB) string { return version(t, `OpenSSH_([^ ,]+)`, "ssh", "-V") }
func puttyVersion(t testing.TB) string {
	return version(t, `Release (\S+)`, distributed(t, "plink"), "-V")
}
func dropbearVersion(t testing.TB) string {
	d := newDbclient(t)
	return version(t, `Dropbear v(\S+)`, "env", "LD_LIBRARY_PATH="+d.libraries, d.path, "-V")
}

func version(t testing.TB, pattern, program string, args ...string) string {
	t.Helper()
	out, _ := exec.Command(program, args...).CombinedOutput() // plink -V exits with status 1
	found := regexp.MustCompile(pattern).FindStringSubmatch(string(out))
	if found == nil {
		t.Fatalf("%s %q printed %q", program, args, out)
	}
	return found[1]
}

func (c client) title() string { return strings.TrimSpace(c.name + " " + c.version) }

// column is one column of the table. Its name is that of a cell.
type column struct{ name, heading string }

var columns = []column{
	{"ed25519", "Ed25519"}, {"rsa2048", "RSA 2048"}, {"rsa3072", "RSA 3072"},
	{"ecdsa256", "ECDSA 256"}, {"ecdsa384", "ECDSA 384"}, {"ecdsa521", "ECDSA 521"},
	{"forward", "forward"}, {"jump", "jump"}, {"upload", "64 MB up"}, {"download", "64 MB down"},
	{"rekey", "rekey"}, {"strict", "strict"},
}

// table returns the content of docs/clients.md.
func table(t *testing.T, rows []*row) string {
	var b strings.Builder
	b.WriteString(introduction)
	b.WriteString("\n| client | version |")
	for _, c := range columns {
		b.WriteString(" " + c.heading + " |")
	}
	b.WriteString("\n" + strings.Repeat("| --- ", len(columns)+2) + "|\n")
	var notes, refusals strings.Builder
	for _, r := range rows {
		version := r.version
		if version == "" {
			version = r.installed(t)
		}
		fmt.Fprintf(&b, "| %s | %s |", r.name, version)
		for _, c := range columns {
			fmt.Fprintf(&b, " %s |", r.cells[c.name])
		}
		b.WriteString("\n")
		if r.missingKeys != "" {
			fmt.Fprintf(&notes, "- %s cannot log in with all keys: %s.\n", r.title(), r.missingKeys)
		}
		if r.noRekey != "" {
			fmt.Fprintf(&notes, "- %s cannot be told to rekey: %s.\n", r.title(), r.noRekey)
		}
		if r.hidesRefusals {
			fmt.Fprintf(&notes, "- %s closes a refused forward without a message.\n", r.title())
		}
		if r.strictRefuses != "" {
			fmt.Fprintf(&refusals, "| %s | `%s` |\n", r.title(), r.strictRefuses)
		}
	}
	fmt.Fprintf(&b, "\nNotes:\n\n%s", &notes)
	fmt.Fprintf(&b, "\n## Refused by `SshAlgorithms=strict`\n\n%s\n| client | message |\n| --- | --- |\n%s", strictIntroduction, &refusals)
	return b.String()
}

const introduction = `# SSH clients

` + "`make clients`" + ` runs these clients against ` + "`bastiond`" + ` and writes this table. ` + "`make conformance`" + ` compares it with
a new run. OpenSSH, PuTTY and Dropbear are those of Debian 12; the versions of the others are pinned in
` + "`scripts/emulators`" + `.

Each client checks the host key against its known hosts. It logs in with each type of key. RSA keys sign with SHA-2.
Then it forwards a connection to a host behind the bastion, jumps to the SSH server of such a host, and sends and
receives 64 MB, whose hashes are compared. A client that can be told to exchange keys again does so in the middle of the
upload. Each client must report an error for a key that the bastion does not admit, and must refuse a host key that is
not the known one. No client may reach a destination that is not allowed. The column *strict* says whether the client
gets in if the operator has set ` + "`SshAlgorithms=strict`" + `.

The second row is OpenSSH with only those algorithms that a client in FIPS mode has: RSA and ECDSA keys, key exchange on
NIST's curves or with Diffie-Hellman groups, AES-GCM and AES-CTR.
`

const strictIntroduction = `These clients lack AES-GCM, or lack curve25519 or Ed25519. They print:
`

var update = flag.Bool("update", false, "write docs/clients.md")

// distributedVersion matches a version in docs/clients.md that depends on the Linux
// distribution.
var distributedVersion = regexp.MustCompile(`(?m)^(\| (?:OpenSSH|PuTTY|Dropbear)[^|]*\|) \S+ \|`)

// compareTable compares docs/clients.md with the rows, except for the versions of the
// Linux distribution. With -update, it writes the file.
func compareTable(t *testing.T, rows []*row) {
	t.Helper()
	const file = "../../../docs/clients.md"
	got := table(t, rows)
	t.Logf("%s\n%s", file, got)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if distributedVersion.ReplaceAllString(got, "$1") != distributedVersion.ReplaceAllString(string(want), "$1") {
		t.Error("docs/clients.md differs from this run: make clients ARGS=-update writes it again")
	}
}
