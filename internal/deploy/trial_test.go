package deploy

import (
	"context"
	"errors"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/cloudformation/types"
	"golang.org/x/crypto/ssh"

	"github.com/bastion-on-demand/bastion/internal/api"
	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/httpapi"
	"github.com/bastion-on-demand/bastion/internal/publickey"
)

// try runs the test request and the trial in a world with a deployed stack.
func try(ctx context.Context, w *world) (string, error) {
	if w.named("bastion") == nil {
		w.add("bastion", types.StackStatusCreateComplete)
	}
	d := w.deployment()
	shown, err := d.smoke(ctx)
	if err == nil {
		err = d.tryBastion(ctx, shown)
	}
	return w.out.String(), err
}

func TestTrialProvesTheServiceAndLeavesNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld()
		out, err := try(t.Context(), w)
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		f := &w.trial
		want := regexp.MustCompile(`(?s)^GET \S+\nGET \S+ returned 200\.
request trial-[a-z2-7]{8} for the address 203\.0\.113\.7
requested abcdefghijklmnop, until \d\d:\d\d:\d\d UTC: 0\.0s
  after 0\.0s, capacity: Waiting for capacity
  after 2\.0s, image: Pulling the image
  after 4\.0s, network: Assigning a network address
  after 6\.0s, host key: Waiting for the host key
ready at 198\.51\.100\.3:2222: 8\.0s
opened the console with SSH; the host key is the one of the document: 0\.0s
deleted: 0\.0s
  after 0\.0s, the task 0123456789abcdef is DEACTIVATING
  after 3\.0s, the task 0123456789abcdef is STOPPING
  after 6\.0s, the task 0123456789abcdef is DEPROVISIONING
its task has stopped, and its security group admits no address: 9\.0s
The reaper deletes the security group when AWS has deleted the task's network interface, within 15 minutes\.
$`)
		if !want.MatchString(out) {
			t.Errorf("the output is\n%s", out)
		}
		if f.posts != 1 || f.deleted != 1 || f.logins != 1 {
			t.Errorf("%d POST, %d DELETE, %d logins", f.posts, f.deleted, f.logins)
		}
		if f.request["ttl"] != "10m" || f.request["source"] != "" || f.event.RequestContext.HTTP.SourceIP != "203.0.113.7" || f.event.Headers["prefer"] != "wait=10" {
			t.Errorf("the request is %q from %s", f.request, f.event.RequestContext.HTTP.SourceIP)
		}
		if _, err := publickey.Parse(f.request["public_key"]); err != nil {
			t.Errorf("the service does not accept the key: %v", err)
		}
		first := *f
		if _, err := try(t.Context(), w); err != nil {
			t.Fatal(err)
		}
		if w.trial.request["name"] == first.request["name"] || w.trial.request["public_key"] == first.request["public_key"] || w.trial.caller != first.caller {
			t.Errorf("the second trial has the request %q of %s, the first %q of %s", w.trial.request, w.trial.caller, first.request, first.caller)
		}
	})
}

// aPerson matches the owners that people have, with unique IDs as in the documentation of IAM.
var aPerson = regexp.MustCompile(`^iam:\d{12}:A(ID|RO)A[A-Z0-9]{16,17}(:.+)?$`)

func TestOwnerOfTrialIsNoPersonAndNoAdmin(t *testing.T) {
	for _, issuer := range []string{"", "https://issuer.example"} {
		bubble(t, func(t *testing.T) {
			w := newWorld()
			stack := w.add("bastion", types.StackStatusCreateComplete)
			stack.params["JwtIssuer"] = issuer
			w.settings.Token = "abc"
			if out, err := try(t.Context(), w); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			// The operator and everybody else in the world are admins.
			admins := []string{"iam:111122223333:AROAEXAMPLEEXAMPLE12", "arn:aws:iam::111122223333:role/Deployer", "arn:aws:iam::111122223333:user/alice"}
			caller, err := httpapi.Owners{Admins: admins, JWTIssuer: issuer, TrustedRoles: []string{"A*", "D*"}}.Caller(w.trial.event.RequestContext)
			if err != nil {
				t.Fatal(err)
			}
			if caller.Admin || caller.Owner != w.trial.caller || !bastion.ValidOwner(caller.Owner) || caller.Address != netip.MustParseAddr("203.0.113.7") {
				t.Errorf("issuer %q: the functions see %+v", issuer, caller)
			}
			want := "iam:111122223333:" + trialUserID
			if issuer != "" {
				want = "jwt:" + issuer + "#trial-of-make-deploy:uuid-0"
			}
			if caller.Owner != want || aPerson.MatchString(caller.Owner) {
				t.Errorf("the owner is %s, want %s", caller.Owner, want)
			}
		})
	}
	if !aPerson.MatchString("iam:111122223333:AROAEXAMPLEEXAMPLEABC:alice") {
		t.Error("the pattern of people does not match a person")
	}
}

func TestTrialFailures(t *testing.T) {
	for _, test := range []struct {
		name    string
		set     func(*world)
		want    []string
		deletes int // DELETE requests
	}{
		{"the request fails", func(w *world) { w.trial.refuse, w.trial.code = 400, "key_invalid" },
			[]string{"POST /bastions returned 400", "The service refuses it."}, 0},
		{"the function is denied", func(w *world) { w.fail["Invoke create-1"] = refusal("AccessDeniedException", "not authorized") },
			[]string{"not authorized", "lambda:InvokeFunction", "SMOKE=0"}, 0},
		{"the response is lost", func(w *world) { w.trial.loseReply = true },
			[]string{"POST /bastions returned 502"}, 1},
		{"the start fails", func(w *world) {
			w.trial.failure = api.Failure{Code: bastion.FailureImage, Message: "The image is not in the registry."}
		}, []string{"the bastion did not start, image_unavailable: The image is not in the registry.", "OPERATIONS.md"}, 1},
		{"it ends early", func(w *world) { w.trial.endsEarly = bastion.EndDeadline },
			[]string{"the bastion is closed before it was ready: It reached its deadline.", "The latest stage was host key"}, 1},
		{"nothing closes it", func(w *world) { w.trial.stuck = true },
			[]string{"still starting after 16m0s", "The latest stage is host key", "reaper"}, 1},
		{"wrong host key", func(w *world) { w.trial.hostKey = true },
			[]string{"wrong host key: the server has " + ssh.FingerprintSHA256(hostKey(2).PublicKey()), "the document " + ssh.FingerprintSHA256(hostKey(3).PublicKey()) + " and " + ssh.FingerprintSHA256(hostKey(1).PublicKey())}, 1},
		{"the server is silent", func(w *world) { w.trial.silent = true },
			[]string{"the console at 198.51.100.3:2222 did not open within 30s, although the TCP connection did"}, 1},
		{"no shell", func(w *world) { w.trial.noShell = true }, []string{"open a shell"}, 1},
		{"the console fails", func(w *world) { w.trial.exitStatus = 3 }, []string{"exited with status 3", "it printed:\nbastion"}, 1},
		{"another console", func(w *world) { w.trial.status = "Welcome to router 7\n" },
			[]string{"the console does not show", fakeID, "it printed:\nWelcome to router 7"}, 1},
		{"the task does not stop", func(w *world) { w.trial.taskStays = true },
			[]string{"was deleted 5m0s ago, and is not closed: the task 0123456789abcdef is RUNNING", "reaper"}, 2},
		{"the rule stays", func(w *world) { w.trial.ruleStays, w.trial.delayed = true, true },
			[]string{"the security group sg-trial admits 203.0.113.7/32", "AWS has not carried out the latest step"}, 2},
		{"ECS does not list the task", func(w *world) { w.trial.noTask = true }, []string{"ECS does not list its task"}, 2},
		{"the tasks cannot be read", func(w *world) { w.fail["ListTasks"] = errTest }, []string{"list the tasks of " + fakeID}, 2},
		{"the group cannot be read", func(w *world) { w.fail["DescribeSecurityGroups bastion-"+fakeID] = errTest }, []string{"describe the security group of " + fakeID}, 2},
		{"a function does not respond", func(w *world) { w.hang = "describe-1" }, []string{"invoke describe-1: context deadline exceeded"}, 1},
		{"the document cannot be read", func(w *world) { w.fail["Invoke describe-1"] = errTest }, []string{"invoke describe-1"}, 1},
	} {
		bubble(t, func(t *testing.T) {
			w := newWorld()
			test.set(w)
			out, err := try(t.Context(), w)
			for _, want := range test.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%s: %q is missing in: %v\n%s", test.name, want, err, out)
				}
			}
			if w.trial.deleted != test.deletes {
				t.Errorf("%s: %d DELETE requests, want %d\n%s", test.name, w.trial.deleted, test.deletes, out)
			}
		})
	}
}

func TestTrialSaysWhatItCannotProve(t *testing.T) {
	private := map[string]string{"PublicAddress": "false", "AllowedSources": "10.8.0.0/16,2001:db8:1::/48"}
	for _, test := range []struct {
		name   string
		params map[string]string
		set    func(*world)
		want   []string
		source string // that the request names or comes from; empty if nothing is requested
	}{
		{"draining", nil, func(w *world) { w.trial.refuse, w.trial.code = 503, "draining" }, []string{"NOT TRIED", "The service refuses it. (draining)"}, ""},
		{"quota of the stack", nil, func(w *world) { w.trial.refuse, w.trial.code = 409, "quota_total" }, []string{"NOT TRIED", "(quota_total)"}, ""},
		{"quota of the owner", nil, func(w *world) { w.trial.refuse, w.trial.code = 409, "quota_owner" }, []string{"NOT TRIED", "(quota_owner)"}, ""},
		{"private", private, nil, []string{"NOT PROVEN: a connection with SSH", "PublicAddress=false", "admits 10.8.0.1 instead"}, "10.8.0.1"},
		{"private, one source", map[string]string{"PublicAddress": "false", "AllowedSources": "10.8.0.9/32"}, nil, []string{"admits 10.8.0.9 instead"}, "10.8.0.9"},
		{"private, any source", map[string]string{"PublicAddress": "false", "AllowedSources": "0.0.0.0/0"}, nil, []string{"admits 0.0.0.1 instead"}, "0.0.0.1"},
		{"private IPv6", map[string]string{"PublicAddress": "false", "AllowedSources": "10.8.0.0/16,2001:db8:1::/48", "AddressFamilies": "ipv6"}, nil,
			[]string{"admits 2001:db8:1::1 instead"}, "2001:db8:1::1"},
		{"other family", nil, func(w *world) { w.source = "2001:db8::7" }, []string{"NOT PROVEN", "2001:db8::7", "AddressFamilies=ipv4"}, "192.0.2.1"},
		{"both families", map[string]string{"AddressFamilies": "dualstack"}, func(w *world) { w.source = "2001:db8::7" }, []string{"opened the console"}, "2001:db8::7"},
		{"no token", map[string]string{"JwtIssuer": "https://issuer.example"}, func(w *world) { w.statuses, w.source = []int{401}, "" },
			[]string{"NOT PROVEN", "BASTION_TOKEN"}, "192.0.2.1"},
		{"no header", nil, func(w *world) { w.source = "" }, []string{"NOT PROVEN", "X-Source-Address"}, "192.0.2.1"},
		{"refused connection", nil, func(w *world) { w.trial.dialErr, w.trial.dialsLeft = syscall.ECONNREFUSED, -1 },
			[]string{"NOT PROVEN: a connection with SSH. No TCP connection to 198.51.100.3:2222 within 30s: connection refused", "blocks outgoing connections to port 2222"}, "203.0.113.7"},
		{"blocked connection", nil, func(w *world) { w.trial.dialErr, w.trial.dialsLeft = context.DeadlineExceeded, -1 },
			[]string{"NOT PROVEN: a connection with SSH", "its security group admits 203.0.113.7"}, "203.0.113.7"},
		{"slow rule", nil, func(w *world) { w.trial.dialErr, w.trial.dialsLeft = context.DeadlineExceeded, 2 }, []string{"opened the console with SSH"}, "203.0.113.7"},
	} {
		bubble(t, func(t *testing.T) {
			w := newWorld()
			s := w.add("bastion", types.StackStatusCreateComplete)
			for name, value := range test.params {
				s.params[name] = value
			}
			if test.set != nil {
				test.set(w)
			}
			out, err := try(t.Context(), w)
			if err != nil {
				t.Errorf("%s: %v", test.name, err)
			}
			for _, want := range test.want {
				if !strings.Contains(out, want) {
					t.Errorf("%s: %q is missing in\n%s", test.name, want, out)
				}
			}
			closed := strings.Contains(out, "its task has stopped, and its security group admits no address")
			if proven := test.source != ""; closed != proven || w.trial.deleted > 0 != proven {
				t.Errorf("%s: %d DELETE requests\n%s", test.name, w.trial.deleted, out)
			}
			if test.source == "" {
				return
			}
			if named, from := w.trial.request["source"], w.trial.event.RequestContext.HTTP.SourceIP; from != test.source || named != "" && named != test.source {
				t.Errorf("%s: the request names %q, and comes from %s", test.name, named, from)
			}
			if private := s.params["PublicAddress"] == "false"; (w.trial.request["source"] != "") != private {
				t.Errorf("%s: the request names the source %q", test.name, w.trial.request["source"])
			}
			if remote := strings.Contains(out, "instead"); remote != (w.trial.dials == 0) {
				t.Errorf("%s: %d connections\n%s", test.name, w.trial.dials, out)
			}
		})
	}
}

func TestTrialIsDeletedWhenInterrupted(t *testing.T) {
	for _, test := range []struct {
		name string
		at   string // the call that the signal interrupts; empty: while POST runs
		want string // in the output
	}{
		{"while POST runs", "", "interrupted; waiting for the response, at most 45s, to delete the bastion\nrequested "},
		{"while it starts", "Invoke describe-1", "deleted " + fakeID},
		{"while it connects", "Dial", "deleted " + fakeID},
		{"while it closes", "ListTasks", "deleted " + fakeID},
	} {
		bubble(t, func(t *testing.T) {
			w := newWorld()
			ctx, interrupt := context.WithCancel(t.Context())
			defer interrupt()
			if test.at == "" {
				w.trial.afterPost = func() {
					interrupt()
					time.Sleep(time.Second) // the function continues
				}
			} else {
				w.on = map[string]func(){test.at: interrupt}
			}
			w.settings.SkipTrial = false
			d := w.deployment()
			err := d.Deploy(ctx)
			out := w.out.String()
			if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "interrupted in step 9 of 9, try a bastion; rerun make deploy") {
				t.Errorf("%s: %v\n%s", test.name, err, out)
			}
			if w.trial.deleted == 0 || !strings.Contains(out, test.want) || w.trial.doc.State != bastion.Closing {
				t.Errorf("%s: %d DELETE requests\n%s", test.name, w.trial.deleted, out)
			}
		})
	}
}

func TestFailedCleanUpSaysWhenItEnds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld()
		w.trial.hostKey = true
		w.fail["Invoke destroy-1"] = errTest
		_, err := try(t.Context(), w)
		for _, want := range []string{"wrong host key", "(" + fakeID + ") may still exist", errTest.Error(), "It closes by itself 10m after the request"} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%q is missing in %v", want, err)
			}
		}
	})
}

func TestCleanUpThatFindsNothingSaysSo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld()
		w.trial.refuse, w.trial.code = 500, "internal"
		out, err := try(t.Context(), w)
		if err == nil || w.trial.deleted > 0 || !strings.Contains(out, "the service has no bastion trial-") {
			t.Errorf("%v\n%s", err, out)
		}
	})
}

func TestTrialLastsNoLongerThanTheServiceAllows(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld()
		w.add("bastion", types.StackStatusCreateComplete).params["LongestLifetime"] = "5m"
		if _, err := try(t.Context(), w); err != nil || w.trial.request["ttl"] != "5m" {
			t.Errorf("the ttl is %s: %v", w.trial.request["ttl"], err)
		}
	})
}

func TestRepeatedRequestIsAccepted(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld()
		w.trial.repeated = true
		if out, err := try(t.Context(), w); err != nil || w.trial.deleted != 1 {
			t.Errorf("%v, %d DELETE requests\n%s", err, w.trial.deleted, out)
		}
	})
}

func TestNothingLeftEndsTheTrialAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld()
		w.trial.allRemoved = true
		out, err := try(t.Context(), w)
		if err != nil || !strings.Contains(out, "nothing is left of it in AWS") || len(w.takeCalls("ListTasks")) > 0 {
			t.Errorf("%v\n%s", err, out)
		}
	})
}

func TestUnchangedStateIsPrintedAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld()
		w.trial.stuck = true
		w.trial.refusal = api.Failure{Code: bastion.FailureConfig, Message: "AWS denied it."}
		out, _ := try(t.Context(), w)
		if n := strings.Count(out, "host key: Waiting for the host key (AWS refused the latest step, misconfigured: AWS denied it.)\n"); n < 25 || n > 35 {
			t.Errorf("printed %d times in 16 minutes\n%s", n, out)
		}
	})
}

func TestSkippedTrial(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld()
		w.settings.SkipTrial = true
		if err := w.deployment().Deploy(t.Context()); err != nil || w.trial.posts > 0 {
			t.Errorf("%v, %d POST", err, w.trial.posts)
		}
		if got := w.takeCalls(effects...); !slices.Equal(got, wholeDeployment[:len(wholeDeployment)-1]) {
			t.Errorf("the calls are %q", got)
		}
		if out := w.out.String(); !strings.Contains(out, "[8/8] send a test request") || !strings.Contains(out, "curl -sS") {
			t.Errorf("the output is\n%s", out)
		}
	})
}

// Each step prints its time, also those before the trial.
func TestEachStepPrintsItsTime(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld()
		w.on = map[string]func(){"push": func() { time.Sleep(1500 * time.Millisecond) }}
		if err := w.deployment().Deploy(t.Context()); err != nil {
			t.Fatal(err)
		}
		steps := regexp.MustCompile(`(?m)^      done in (\d+\.\d)s$`).FindAllStringSubmatch(w.out.String(), -1)
		if len(steps) != 9 || steps[3][1] != "1.5" {
			t.Errorf("the times are %q\n%s", steps, w.out.String())
		}
	})
}
