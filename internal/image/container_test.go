//go:build conformance && linux

package image

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
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

// asContainer makes the test binary enter a root folder and become the program
// in it. Its value is the folder.
const asContainer = "BE_THE_CONTAINER_IN"

// volume is where the container may write.
const volume = "/lease"

func init() {
	root := os.Getenv(asContainer)
	if root == "" {
		return
	}
	// Only a failure comes back from this.
	fmt.Fprintln(os.Stderr, "enter the container:", enter(root, os.Args[1:]))
	os.Exit(125)
}

// container runs the image's entrypoint as Fargate would with a read-only root:
// in the image's files and nothing else, as the image's user, without a single
// capability. It takes a user namespace, so it needs no root itself, except where
// the kernel keeps these from ordinary users (kernel.apparmor_restrict_unprivileged_userns).
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
		// For enter, which gives them up.
		AmbientCaps: []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_SYS_CHROOT},
	}
	return cmd
}

func enter(root string, args []string) error {
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
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("give up the capabilities: %w", err)
	}
	return unix.Exec(args[0], args, nil)
}

// mountVolume binds the folder beside the root, if there is one.
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
	image := here(t, built(t))
	output, err := container(t, image, extract(t, image), "--help").CombinedOutput()
	if err != nil || !strings.Contains(string(output), "Usage: bastiond") {
		t.Errorf("%v\n%s", err, output)
	}
}

// The whole life of a bastion in its container: lease, listener, report, SIGTERM,
// receipt.
func TestBastiondLivesInTheContainer(t *testing.T) {
	image := here(t, built(t))
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
	var said bytes.Buffer
	cmd := container(t, image, root, "--lease", volume, "--listen", "127.0.0.1:0", "--poll", "10ms")
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	ready(t, lease)
	wantNobody(t, cmd)
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 143 {
		t.Errorf("%v\n%s", err, &said)
	}
	if report, err := lease.Reported(); err != nil || report.Receipt.EndedAt.IsZero() {
		t.Errorf("no receipt: %+v, %v\n%s", report, err, &said)
	}
}

// ready waits for the report that makes a bastion ready.
func ready(t *testing.T, lease leasefile.Dir) {
	t.Helper()
	late := time.After(30 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if report, err := lease.Reported(); err == nil && report.HostKey != "" {
			return
		}
		select {
		case <-tick.C:
		case <-late:
			t.Fatal("bastiond does not get ready")
		}
	}
}

// wantNobody asks the kernel who the process is, and what it may do.
func wantNobody(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	proc := filepath.Join("/proc", fmt.Sprint(cmd.Process.Pid))
	status, err := os.ReadFile(filepath.Join(proc, "status"))
	if err != nil {
		t.Fatal(err)
	}
	for _, capabilities := range []string{"CapPrm", "CapEff", "CapAmb"} {
		if !strings.Contains(string(status), capabilities+":\t0000000000000000\n") {
			t.Errorf("%s is not empty:\n%s", capabilities, status)
		}
	}
	uids, err := os.ReadFile(filepath.Join(proc, "uid_map"))
	if err != nil || strings.Fields(string(uids))[0] != fmt.Sprint(cmd.SysProcAttr.UidMappings[0].ContainerID) {
		t.Errorf("user ids %s, %v", uids, err)
	}
}
