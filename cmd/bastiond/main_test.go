package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-on-demand/bastion/internal/awscloud"
	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/leasefile"
	"github.com/bastion-on-demand/bastion/internal/sshd"
	"github.com/bastion-on-demand/bastion/internal/test/leakcheck"
	"github.com/bastion-on-demand/bastion/internal/test/sshclient"
)

// asMain is the environment variable that makes the test binary run bastiond.
const asMain = "BASTIOND_TEST_AS_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asMain) != "" {
		main()
		return
	}
	leakcheck.Main(m)
}

func TestErrorListsAllProblems(t *testing.T) {
	_, err := parse(t.Context(), []string{
		"--lease", "/nowhere", "--listen", "22", "--poll", "often", "--wait", "-1s", "--ssh-algorithms", "fips", "--ssh-handshakes", "0", "--ssh-connections", "1001", "--ssh-channels", "many", "--ssh-silence-minutes", "1441", "--allow-loopback", "127.0.0.1/32,10.0.0.0/8,x", "extra",
	}, nothing, io.Discard)
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		`unexpected argument "extra"`, "/nowhere", `--listen "22"`, `--poll "often"`, `--wait "-1s"`, `--ssh-algorithms "fips": neither compatible nor strict`,
		`--ssh-handshakes "0": not a number from 1 to 1000`, `--ssh-connections "1001"`, `--ssh-channels "many"`, `--ssh-silence-minutes "1441": not a number from 1 to 1440`, `"10.0.0.0/8"`, `"x"`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in:\n%v", want, err)
		}
	}
}

func nothing(string) string { return "" }

func TestMissingLeaseAndUnknownFlagAreErrors(t *testing.T) {
	if _, err := parse(t.Context(), nil, nothing, io.Discard); err == nil || !strings.Contains(err.Error(), "--lease DIR") {
		t.Errorf("%v", err)
	}
	if _, err := parse(t.Context(), []string{"--frobnicate"}, nothing, io.Discard); err == nil || !strings.Contains(err.Error(), "frobnicate") {
		t.Errorf("%v", err)
	}
}

func TestLeaseTableNeedsRoleIDAndTaskMetadata(t *testing.T) {
	env := map[string]string{"BASTIOND_LEASE_TABLE": "leases", "BASTIOND_LEASE": t.TempDir(), "BASTIOND_TASK_ROLE_ID": "bastion-role"}
	_, err := parse(t.Context(), nil, func(name string) string { return env[name] }, io.Discard)
	for _, want := range []string{"cannot be combined", `"bastion-role"`, metadataURI} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in: %v", want, err)
		}
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"TaskARN":"arn:aws:ecs:eu-west-1:111122223333:task/c/0123","Containers":[{"Networks":[{"IPv4Addresses":["10.9.8.7"]}]}]}`)
	}))
	defer server.Close()
	defer http.DefaultClient.CloseIdleConnections()
	env = map[string]string{"BASTIOND_LEASE_TABLE": "leases", "BASTIOND_TASK_ROLE_ID": "AROAEXAMPLE", metadataURI: server.URL}
	cfg, err := parse(t.Context(), nil, func(name string) string { return env[name] }, io.Discard)
	if err != nil || cfg.LeaseTiming.Poll != 3*time.Second || !slices.Contains(cfg.Own, netip.MustParseAddr("10.9.8.7")) {
		t.Errorf("%+v, %v", cfg, err)
	}
	if _, ok := cfg.Lease.(*awscloud.TaskLease); !ok {
		t.Errorf("the lease is %T", cfg.Lease)
	}
}

func TestAlgorithmsAreASetting(t *testing.T) {
	dir := t.TempDir()
	for value, want := range map[string]sshd.Algorithms{"": sshd.Compatible, "compatible": sshd.Compatible, "strict": sshd.Strict} {
		env := map[string]string{"BASTIOND_LEASE": dir, "BASTIOND_SSH_ALGORITHMS": value}
		if cfg, err := parse(t.Context(), nil, func(name string) string { return env[name] }, io.Discard); err != nil || cfg.Algorithms != want {
			t.Errorf("%q: %q, %v", value, cfg.Algorithms, err)
		}
	}
}

func TestLimitsAreSettings(t *testing.T) {
	env := map[string]string{"BASTIOND_LEASE": t.TempDir()}
	getenv := func(name string) string { return env[name] }
	for _, want := range []struct {
		limits  sshd.Limits
		silence time.Duration
	}{
		{sshd.Limits{Handshakes: 400, Connections: 250, Channels: 250}, 15 * time.Minute},
		{sshd.Limits{Handshakes: 7, Connections: 8, Channels: 9}, 10 * time.Minute},
	} {
		cfg, err := parse(t.Context(), nil, getenv, io.Discard)
		if err != nil || cfg.Limits != want.limits || cfg.Timing.Silence != want.silence {
			t.Errorf("%+v, %v, %v; want %+v", cfg.Limits, cfg.Timing.Silence, err, want)
		}
		env["BASTIOND_SSH_HANDSHAKES"], env["BASTIOND_SSH_CONNECTIONS"], env["BASTIOND_SSH_CHANNELS"] = "7", "8", "9"
		env["BASTIOND_SSH_SILENCE_MINUTES"] = "10"
	}
}

func TestFlagsOverrideTheEnvironment(t *testing.T) {
	dir := t.TempDir()
	env := map[string]string{"BASTIOND_LEASE": dir, "BASTIOND_POLL": "3s", "BASTIOND_ALLOW_LOOPBACK": "127.0.0.1/32,::1/128"}
	cfg, err := parse(t.Context(), []string{"--poll", "1s"}, func(name string) string { return env[name] }, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Lease != leasefile.Dir(dir) || cfg.LeaseTiming.Poll != time.Second || len(cfg.AllowLoopback) != 2 {
		t.Errorf("%+v", cfg)
	}
	for _, own := range cfg.Own {
		if own.IsLoopback() {
			t.Errorf("%s is among the bastion's own addresses", own)
		}
	}
}

func TestHelpListsFlags(t *testing.T) {
	var help bytes.Buffer
	if _, err := parse(t.Context(), []string{"--help"}, nothing, &help); !errors.Is(err, flag.ErrHelp) {
		t.Fatal(err)
	}
	for _, want := range []string{"Usage: bastiond", "-lease", "-listen", "-allow-loopback", exampleLease} {
		if !strings.Contains(help.String(), want) {
			t.Errorf("%q is missing in:\n%s", want, &help)
		}
	}
}

// process starts bastiond as a process of its own.
func process(t *testing.T, dir leasefile.Dir, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], append([]string{"--lease", string(dir), "--listen", "127.0.0.1:0", "--poll", "10ms"}, args...)...)
	cmd.Env = append(os.Environ(), asMain+"=1")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd
}

// The lease in the help, with a key of one's own, must be one that bastiond follows.
func TestLeaseOfHelpIsFollowed(t *testing.T) {
	key, err := sshclient.NewKey("ed25519")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	line := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey())))
	text := strings.NewReplacer("ssh-ed25519 AAAA...", line, "2030-01-01T00:00:00Z", time.Now().UTC().Add(time.Hour).Format(time.RFC3339)).Replace(exampleLease)
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.DisallowUnknownFields()
	var lease bastion.Lease
	if err := decoder.Decode(&lease); err != nil || len(lease.Admissions()) != 1 || len(lease.AllowedDestinations) != 2 {
		t.Errorf("%+v, %v", lease, err)
	}
	dir := leasefile.Dir(t.TempDir())
	if err := os.WriteFile(filepath.Join(string(dir), leasefile.LeaseName), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := process(t, dir)
	ready(t, dir)
	grant(t, dir, func(l *bastion.Lease) { *l = lease; l.Generation, l.Open = 2, false })
	if got := status(t, cmd); got != 0 {
		t.Errorf("exit status %d, want 0", got)
	}
}

// status waits for the process to end, and returns its exit status.
func status(t *testing.T, cmd *exec.Cmd) int {
	t.Helper()
	if err := cmd.Wait(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode()
}

func grant(t testing.TB, dir leasefile.Dir, change func(*bastion.Lease)) {
	t.Helper()
	lease := bastion.Lease{
		BastionID: "b1", Owner: "local:alice", Name: "default", Generation: 1, Open: true,
		Source: netip.MustParsePrefix("127.0.0.1/32"), Deadline: time.Now().Add(time.Hour),
	}
	change(&lease)
	if err := dir.Grant(lease); err != nil {
		t.Fatal(err)
	}
}

// ready waits for the process's first report.
func ready(t testing.TB, dir leasefile.Dir) {
	t.Helper()
	late := time.After(5 * time.Minute)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if report, err := dir.Reported(); err == nil && report.HostKey != "" {
			return
		}
		select {
		case <-tick.C:
		case <-late:
			t.Fatal("bastiond did not become ready")
		}
	}
}

func TestExitStatus(t *testing.T) {
	t.Run("bad settings", func(t *testing.T) {
		if got := status(t, process(t, "/nowhere")); got != 2 {
			t.Errorf("exit status %d, want 2", got)
		}
	})
	t.Run("never leased", func(t *testing.T) {
		if got := status(t, process(t, leasefile.Dir(t.TempDir()), "--wait", "50ms")); got != 10 {
			t.Errorf("exit status %d, want 10", got)
		}
	})
	t.Run("stopped by a signal", func(t *testing.T) {
		dir := leasefile.Dir(t.TempDir())
		grant(t, dir, func(*bastion.Lease) {})
		cmd := process(t, dir)
		ready(t, dir)
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if got := status(t, cmd); got != 143 {
			t.Errorf("exit status %d, want 143", got)
		}
		if report, err := dir.Reported(); err != nil || report.Receipt.EndedAt.IsZero() {
			t.Errorf("no receipt: %+v, %v", report, err)
		}
	})
	t.Run("closed", func(t *testing.T) {
		dir := leasefile.Dir(t.TempDir())
		grant(t, dir, func(*bastion.Lease) {})
		cmd := process(t, dir)
		ready(t, dir)
		grant(t, dir, func(l *bastion.Lease) { l.Generation, l.Open = 2, false })
		if got := status(t, cmd); got != 0 {
			t.Errorf("exit status %d, want 0", got)
		}
	})
	t.Run("the address is in use", func(t *testing.T) {
		taken, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer taken.Close()
		dir := leasefile.Dir(t.TempDir())
		grant(t, dir, func(*bastion.Lease) {})
		if got := status(t, process(t, dir, "--listen", taken.Addr().String())); got != 1 {
			t.Errorf("exit status %d, want 1", got)
		}
	})
}

// TestExitStatusOfATask runs bastiond as in a task, with a table that refuses reads.
// bastiond accepts refusals for 15 seconds, but the short --wait ends it earlier.
func TestExitStatusOfATask(t *testing.T) {
	for name, c := range map[string]struct {
		code string // DynamoDB's error code
		want int
	}{
		"denied":   {"AccessDeniedException", 12},
		"no table": {"ResourceNotFoundException", 13},
	} {
		t.Run(name, func(t *testing.T) {
			aws := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("X-Amz-Target") == "" {
					fmt.Fprint(w, `{"TaskARN":"arn:aws:ecs:eu-west-1:111122223333:task/c/0123","Containers":[]}`)
					return
				}
				w.Header().Set("Content-Type", "application/x-amz-json-1.0")
				w.WriteHeader(http.StatusBadRequest)
				fmt.Fprintf(w, `{"__type":"com.amazonaws.dynamodb.v20120810#%s","message":"because"}`, c.code)
			}))
			defer aws.Close()
			cmd := exec.Command(os.Args[0], "--lease-table", "leases", "--task-role-id", "AROAEXAMPLE", "--poll", "10ms", "--wait", "50ms")
			cmd.Env = append(os.Environ(), asMain+"=1", metadataURI+"="+aws.URL, "AWS_ENDPOINT_URL_DYNAMODB="+aws.URL,
				"AWS_REGION=eu-west-1", "AWS_ACCESS_KEY_ID=x", "AWS_SECRET_ACCESS_KEY=x")
			var output bytes.Buffer
			cmd.Stdout, cmd.Stderr = &output, &output
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if got := status(t, cmd); got != c.want || !strings.Contains(output.String(), c.code) {
				t.Errorf("exit status %d, want %d:\n%s", got, c.want, &output)
			}
		})
	}
}
