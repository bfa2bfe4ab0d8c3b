package sshd

import (
	"io"
	"slices"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-on-demand/bastion/internal/test/monitoring"
)

// A saved query that names a field or a message that is never written finds nothing. The
// test runs a server, and looks for the audit lines of each query and for its fields.
func TestSavedQueriesFindTheAuditLines(t *testing.T) {
	template, err := monitoring.Read("../../template.yaml")
	if err != nil {
		t.Fatal(err)
	}
	queries, err := template.Queries()
	if err != nil {
		t.Fatal(err)
	}
	lines := linesOfEachKind(t)
	found := map[string]int{}
	for _, q := range queries {
		if !slices.Equal(q.Groups, []string{"TaskLogGroup"}) {
			continue // package lambdamode tests it
		}
		rows := q.Find(lines)
		found[q.Name] = len(rows)
		if missing := q.Missing(rows); len(missing) > 0 {
			t.Errorf("%s: no line has %q:\n%v", q.Name, missing, rows)
		}
	}
	for name, want := range map[string]int{"Who connected to what": 2, "Refused attempts": 22, "Receipts by owner": 1} {
		if found[name] != want {
			t.Errorf("%q finds %d lines, want %d", name, found[name], want)
		}
		delete(found, name)
	}
	if len(found) > 0 {
		t.Errorf("no test for %v", found)
	}
}

// linesOfEachKind returns the log of a server with two forwards, of which one reaches its
// destination, 22 requests for a forbidden destination, of which 2 have no line of their
// own, a wrong key, and a receipt.
func linesOfEachKind(t *testing.T) []map[string]any {
	t.Helper()
	r := start(t)
	r.echo("10.0.0.1:7")
	client := r.dial()
	conn := forward(t, client, "10.0.0.1:7")
	if _, err := io.WriteString(conn, "hello"); err != nil {
		t.Fatal(err)
	}
	conn.CloseWrite()
	if _, err := io.ReadAll(conn); err != nil {
		t.Fatal(err)
	}
	for _, address := range append(slices.Repeat([]string{"192.0.2.1:7"}, firstRefusals+2), "10.0.0.2:7") {
		if _, err := client.Dial("tcp", address); err == nil {
			t.Fatalf("a forward to %s succeeds", address)
		}
	}
	if _, err := r.dialWith(r.client(ssh.PublicKeys(newKey(t)))); err == nil {
		t.Fatal("another key is accepted")
	}
	client.Close()
	r.log.await(t, msgRefusal, firstRefusals+1)
	r.stop()
	r.log.mu.Lock()
	defer r.log.mu.Unlock()
	var lines []map[string]any
	for _, l := range r.log.lines {
		lines = append(lines, l)
	}
	return lines
}
