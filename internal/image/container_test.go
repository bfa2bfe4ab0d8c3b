//go:build conformance && linux

package image

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/leasefile"
)

// asContainer names a variable. If it is set, the test binary changes its root to the
// folder in it and executes the program that its arguments name.
const asContainer = "BE_THE_CONTAINER_IN"

// portStart names a variable for a container with a network of its own: the value of the
// system control net.ipv4.ip_unprivileged_port_start.
const portStart = "UNPRIVILEGED_PORT_START"

// volume is the only folder that the container can write to.
const volume = "/lease"

func init() {
	root := os.Getenv(asContainer)
	if root == "" {
		return
	}
	// enter returns only if it fails.
	fmt.Fprintln(os.Stderr, "enter the container:", enter(root, os.Args[1:]))
	os.Exit(125)
}

// container runs the image's entrypoint as Fargate does with a read-only root: with the
// image's files only, as the image's user, without capabilities. It uses a user
// namespace, so the test does not need to be root, unless the kernel restricts them
// (kernel.apparmor_restrict_unprivileged_userns); then the start of the container fails.
// It shares the machine's network.
func container(t *testing.T, image v1.Image, root string, args ...string) *exec.Cmd {
	t.Helper()
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	var uid, gid int
	if _, err := fmt.Sscanf(config.Config.User, "%d:%d", &uid, &gid); err != nil || uid == 0 || gid == 0 {
		t.Fatalf("the image's user is %q, %v", config.Config.User, err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, slices.Concat(config.Config.Entrypoint, args)...)
	cmd.Env = []string{asContainer + "=" + root}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: uid, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: gid, HostID: os.Getgid(), Size: 1}},
		// For enter, which drops them.
		AmbientCaps: []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_SYS_CHROOT, unix.CAP_SETPCAP},
	}
	return cmd
}

// withOwnNetwork gives the container a network of its own, with a loopback interface, as
// a task has. Ports below start need a capability there; 1024 is the kernel's default.
func withOwnNetwork(cmd *exec.Cmd, start string) {
	cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWNET
	cmd.SysProcAttr.AmbientCaps = append(cmd.SysProcAttr.AmbientCaps, unix.CAP_NET_ADMIN)
	cmd.Env = append(cmd.Env, portStart+"="+start)
}

// start starts a container.
func start(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatalf("start the container: %v: this test needs user, mount and network namespaces, and this machine may refuse them", err)
	}
}

func enter(root string, args []string) error {
	if start := os.Getenv(portStart); start != "" {
		if err := setUpNetwork(start); err != nil {
			return err
		}
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mounts private: %w", err)
	}
	if err := unix.Mount(root, root, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind %s: %w", root, err)
	}
	if err := mountVolume(root); err != nil {
		return err
	}
	if err := unix.Mount("", root, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, ""); err != nil {
		return fmt.Errorf("make %s read-only: %w", root, err)
	}
	if err := unix.Chroot(root); err != nil {
		return fmt.Errorf("change the root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if err := os.WriteFile("/written", nil, 0o600); !errors.Is(err, unix.EROFS) {
		return fmt.Errorf("the root is not read-only: %v", err)
	}
	for capability := uintptr(0); capability <= unix.CAP_LAST_CAP; capability++ {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, capability, 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) { // EINVAL: unknown to this kernel
			return fmt.Errorf("remove capability %d from the bounding set: %w", capability, err)
		}
	}
	var none [2]unix.CapUserData // version 3 has two; the ambient set becomes empty, too
	if err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0]); err != nil {
		return fmt.Errorf("drop the capabilities: %w", err)
	}
	if err := errors.Join(os.Unsetenv(asContainer), os.Unsetenv(portStart)); err != nil {
		return err
	}
	return unix.Exec(args[0], args, os.Environ())
}

// setUpNetwork sets up the loopback interface and the system control.
func setUpNetwork(start string) error {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a socket for the loopback interface: %w", err)
	}
	loopback, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	loopback.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, loopback); err != nil {
		return fmt.Errorf("set up the loopback interface: %w", err)
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_unprivileged_port_start", []byte(start), 0); err != nil {
		return fmt.Errorf("set the system control: %w", err)
	}
	return unix.Close(socket)
}

// mountVolume binds the folder ROOT.volume, if there is one.
func mountVolume(root string) error {
	from := root + ".volume"
	if _, err := os.Stat(from); err != nil {
		return nil
	}
	if err := unix.Mount(from, root+volume, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s: %w", from, err)
	}
	return nil
}

func TestHelpInTheContainer(t *testing.T) {
	image := nativeImage(t, built(t))
	output, err := container(t, image, extract(t, image), "--help").CombinedOutput()
	if err != nil || !strings.Contains(string(output), "Usage: bastiond") {
		t.Errorf("%v\n%s", err, output)
	}
}

// A bastion's life in its container: lease, listener, report, SIGTERM, receipt.
func TestBastiondRunsInTheContainer(t *testing.T) {
	cmd, lease, output := withLease(t, "127.0.0.1:0")
	start(t, cmd)
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	ready(t, lease)
	wantUnprivileged(t, cmd)
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 143 {
		t.Errorf("%v\n%s", err, output)
	}
	if report, err := lease.Reported(); err != nil || report.Receipt.EndedAt.IsZero() {
		t.Errorf("no receipt: %+v, %v\n%s", report, err, output)
	}
}

// withLease returns a container of the built image that listens on the address, with its
// lease and its output.
func withLease(t *testing.T, address string) (*exec.Cmd, leasefile.Dir, *bytes.Buffer) {
	t.Helper()
	image := nativeImage(t, built(t))
	root := extract(t, image)
	lease := leasefile.Dir(root + ".volume")
	for _, folder := range []string{string(lease), root + volume} {
		if err := os.Mkdir(folder, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	err := lease.Grant(bastion.Lease{
		BastionID: "b1", Owner: "local:alice", Name: "default", Generation: 1, Open: true,
		Source: netip.MustParsePrefix("127.0.0.1/32"), Deadline: time.Now().Add(time.Hour),
	})
	if err != nil {
		t.Fatal(err)
	}
	cmd, output := container(t, image, root, "--lease", volume, "--listen", address, "--poll", "10ms"), new(bytes.Buffer)
	cmd.Stdout, cmd.Stderr = output, output
	return cmd, lease, output
}

// As on Fargate, bastiond has the image's user, no capability, and cannot gain one. With
// the task definition's system control it listens on 22 and 443, without it on ports from
// 1024 only.
func TestPortsInTheContainer(t *testing.T) {
	for _, test := range []struct{ port, start, want string }{
		{"443", "0", "listens"},
		{"22", "0", "listens"},
		{"2222", "0", "listens"},
		{"2222", "1024", "listens"},
		{"443", "1024", "bind: permission denied: without root, a port below 1024 needs the system control net.ipv4.ip_unprivileged_port_start=0"},
		{"22", "1024", "bind: permission denied: without root, a port below 1024 needs the system control net.ipv4.ip_unprivileged_port_start=0"},
	} {
		t.Run("port "+test.port+", unprivileged from "+test.start, func(t *testing.T) {
			cmd, lease, output := withLease(t, "127.0.0.1:"+test.port)
			withOwnNetwork(cmd, test.start)
			start(t, cmd)
			if test.want != "listens" {
				err := cmd.Wait()
				if cmd.ProcessState.ExitCode() != bastion.ExitFailure || !strings.Contains(output.String(), test.want) {
					t.Errorf("%v, want exit code %d and %q in\n%s", err, bastion.ExitFailure, test.want, output)
				}
				return
			}
			defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
			ready(t, lease)
			wantUnprivileged(t, cmd)
			if got := listening(t, cmd); got != "127.0.0.1:"+test.port {
				t.Errorf("it listens on %s\n%s", got, output)
			}
		})
	}
}

// listening returns the IPv4 addresses on which processes in the container's network
// listen.
func listening(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	table, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/tcp", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for line := range strings.Lines(string(table)) {
		var slot, port, state int
		var address uint32
		// The address is in the byte order of the machine, which is little-endian.
		if n, _ := fmt.Sscanf(line, "%d: %X:%X 00000000:0000 %X", &slot, &address, &port, &state); n == 4 && state == 0x0A {
			all = append(all, fmt.Sprintf("%d.%d.%d.%d:%d", byte(address), byte(address>>8), byte(address>>16), byte(address>>24), port))
		}
	}
	return strings.Join(all, " ")
}

// ready waits for the report of a bastion that is ready.
func ready(t *testing.T, lease leasefile.Dir) {
	t.Helper()
	late := time.After(5 * time.Minute)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if report, err := lease.Reported(); err == nil && report.HostKey != "" {
			return
		}
		select {
		case <-tick.C:
		case <-late:
			t.Fatal("bastiond did not become ready")
		}
	}
}

// wantUnprivileged checks the process's user and capabilities.
func wantUnprivileged(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	proc := filepath.Join("/proc", fmt.Sprint(cmd.Process.Pid))
	status, err := os.ReadFile(filepath.Join(proc, "status"))
	if err != nil {
		t.Fatal(err)
	}
	for _, capabilities := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
		if !strings.Contains(string(status), capabilities+":\t0000000000000000\n") {
			t.Errorf("%s is not empty:\n%s", capabilities, status)
		}
	}
	uids, err := os.ReadFile(filepath.Join(proc, "uid_map"))
	if err != nil || strings.Fields(string(uids))[0] != fmt.Sprint(cmd.SysProcAttr.UidMappings[0].ContainerID) {
		t.Errorf("user ids %s, %v", uids, err)
	}
}

// bastiond verifies TLS with the CA roots that are compiled into it: the image has no
// others. Package crypto/x509 reports "unknown authority" with empty roots too, so a
// refusal alone would prove nothing. The test has a CA of its own, and a server on
// loopback in place of DynamoDB. A bastiond whose source is the same, but whose module
// x509roots/fallback has the test's CA as well, accepts the server from the image's
// root; the image's own bastiond refuses it. So compiled-in roots are used, and they
// are all that is used.
func TestTLSInTheContainerUsesTheCompiledInRoots(t *testing.T) {
	ca, certificate := testCA(t)
	image := nativeImage(t, built(t))
	root := extract(t, image)
	if refused := connectTo(t, certificate, image, root); !strings.Contains(refused, "remote error: tls:") {
		t.Errorf("with an unknown CA: %q", refused)
	}
	module := copySource(t)
	addRoot(t, module, ca)
	source := Source{Module: module, Package: "./cmd/bastiond"}
	platform := v1.Platform{OS: "linux", Architecture: runtime.GOARCH}
	program, err := source.compile(t.Context(), platform, filepath.Join(t.TempDir(), "bastiond"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(root, programPath)
	if err := errors.Join(os.Remove(path), os.WriteFile(path, program, 0o555)); err != nil {
		t.Fatal(err)
	}
	if refused := connectTo(t, certificate, image, root); refused != "" {
		t.Errorf("with the CA among the compiled-in roots: %q", refused)
	}
}

// connectTo runs bastiond in the root until it connects to its table of leases, at a
// server with the certificate. It returns "" for a request, and otherwise the server's
// error.
func connectTo(t *testing.T, certificate tls.Certificate, image v1.Image, root string) (refused string) {
	t.Helper()
	metadata := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"TaskARN":"arn:aws:ecs:eu-west-1:111122223333:task/bastions/0123abcd"}`)
	}))
	defer metadata.Close()
	outcome := make(outcomes, 1)
	table := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { outcome.add("") }))
	table.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	table.Config.ErrorLog = log.New(outcome, "", 0)
	table.StartTLS()
	defer table.Close()
	cmd := container(t, image, root, "--listen", "127.0.0.1:0", "--lease-table", "leases", "--task-role-id", "AROAEXAMPLEEXAMPLE123")
	cmd.Env = append(cmd.Env, "AWS_ENDPOINT_URL_DYNAMODB="+table.URL, "ECS_CONTAINER_METADATA_URI_V4="+metadata.URL,
		"AWS_REGION=eu-west-1", "AWS_ACCESS_KEY_ID=AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY=example")
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	start(t, cmd)
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case refused = <-outcome:
		_ = cmd.Process.Kill()
		<-ended
	case err := <-ended:
		t.Fatalf("bastiond ended before it connected: %v\n%s", err, &output)
	}
	return refused
}

// outcomes keeps the first result of a connection. It is the server's error log.
type outcomes chan string

func (o outcomes) add(result string) {
	select {
	case o <- result:
	default:
	}
}

func (o outcomes) Write(line []byte) (int, error) {
	o.add(string(line))
	return len(line), nil
}

// testCA returns a CA, and a certificate from it for a server on 127.0.0.1.
func testCA(t *testing.T) (ca []byte, server tls.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	parent := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	ca, err = x509.CreateCertificate(rand.Reader, parent, parent, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "test server"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, NotBefore: parent.NotBefore, NotAfter: parent.NotAfter,
	}
	signed, err := x509.CreateCertificate(rand.Reader, leaf, parent, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return ca, tls.Certificate{Certificate: [][]byte{signed}, PrivateKey: key}
}

// addRoot replaces the module x509roots/fallback in a copy of the source with one that
// has another root.
func addRoot(t *testing.T, module string, ca []byte) {
	t.Helper()
	const fallback = "golang.org/x/crypto/x509roots/fallback"
	list := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", fallback)
	list.Dir = repository
	folder, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	changed := filepath.Join(t.TempDir(), "fallback")
	if err := os.CopyFS(changed, os.DirFS(strings.TrimSpace(string(folder)))); err != nil {
		t.Fatal(err)
	}
	// The list of certificates gets one more, at the end of the file that has them all.
	edit(t, filepath.Join(changed, "bundle", "bundle.der"), func(der []byte) []byte {
		edit(t, filepath.Join(changed, "bundle", "bundle.go"), func(list []byte) []byte {
			return fmt.Appendf(list, "\nfunc init() {\n\tunparsedCertificates = append(unparsedCertificates, unparsedCertificate{certStartOff: %d, certLength: %d})\n}\n", len(der), len(ca))
		})
		return append(der, ca...)
	})
	edit(t, filepath.Join(module, "go.mod"), func(mod []byte) []byte {
		return fmt.Appendf(mod, "\nreplace %s => %s\n", fallback, changed)
	})
}

func edit(t *testing.T, file string, change func([]byte) []byte) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(file); err != nil { // copies of the module cache are read-only
		t.Fatal(err)
	}
	if err := os.WriteFile(file, change(data), 0o600); err != nil {
		t.Fatal(err)
	}
}
