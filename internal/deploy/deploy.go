// Package deploy installs the service in an AWS account, and removes it.
//
// A deployment is a list of steps in a fixed order, each of which can be repeated:
// checks, registry, build, push, verify, deploy, test request, trial. A dry run prints the list
// and calls nothing. The AWS SAM CLI packages and deploys the templates, as a process.
// The other steps call AWS through the interfaces in cloud.go.
package deploy

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ecr"
	ecrtypes "github.com/aws/aws-sdk-go-v2/service/ecr/types"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/image"
)

// Images builds bastiond's image and pushes it.
type Images interface {
	// Build returns the digest, "sha256:…".
	Build(ctx context.Context) (digest string, err error)
	// Push pushes the image that Build made, verifies it, and returns
	// "REPOSITORY@sha256:…". It does not send again what the registry has.
	Push(ctx context.Context, repository string) (reference string, err error)
}

// Deployment has everything that deploying and undeploying need.
type Deployment struct {
	Settings Settings
	Cloud    Cloud
	Images   Images
	Runner   Runner
	HTTP     *http.Client                                                         // for the test request
	Dial     func(ctx context.Context, network, address string) (net.Conn, error) // for the trial
	LookPath func(program string) (string, error)
	Now      func() time.Time // for signatures
	Progress image.Progress
}

// Deploy brings the account to the state that the settings describe. It is safe to
// repeat, after a failure or without one. Invalid settings are one error, before any
// call.
func (d *Deployment) Deploy(ctx context.Context) error {
	if err := d.Settings.Validate(); err != nil {
		return err
	}
	b := &built{}
	err := run(ctx, d.Progress.W, d.Settings.DryRun, "make deploy", d.deploySteps(b))
	if err == nil && !d.Settings.DryRun {
		d.printFirstSteps(b.smoked)
	}
	return err
}

// step is a part of a deployment, and its description for a dry run.
type step struct {
	what    string
	details []string // the commands and calls
	do      func(context.Context) error
}

// run does the steps in order and stops at the first that fails. A dry run prints them.
// command is the command that repeats them.
func run(ctx context.Context, out io.Writer, dry bool, command string, steps []step) error {
	for i, s := range steps {
		fmt.Fprintf(out, "\n[%d/%d] %s\n", i+1, len(steps), s.what)
		if dry {
			for _, detail := range s.details {
				fmt.Fprintf(out, "      would %s\n", detail)
			}
			continue
		}
		began := time.Now()
		err := s.do(ctx)
		if err != nil && ctx.Err() != nil {
			return fmt.Errorf("interrupted in step %d of %d, %s; rerun %s to continue: %w", i+1, len(steps), s.what, command, err)
		}
		if err != nil {
			return fmt.Errorf("step %d of %d, %s: %w\nFix that and rerun %s; completed steps are skipped", i+1, len(steps), s.what, err, command)
		}
		fmt.Fprintf(out, "      done in %s\n", seconds(began))
	}
	if dry {
		fmt.Fprintln(out, "\nDry run: nothing was called, built or changed.")
	}
	return nil
}

// built is passed from step to step.
type built struct {
	repository, digest, reference string
	smoked                        smoked
}

func (d *Deployment) deploySteps(b *built) []step {
	s := d.Settings
	steps := []step{
		{"check this machine, the account and the network", d.describeChecks(), d.check},
		{"deploy the registry, stack " + s.Registry(), []string{
			"run scripts/emulators sam, which installs the SAM CLI into .tools",
			"run " + commandLine(samCLI, deployTemplate("registry.yaml", s.Registry(), d.region(), nil)),
		}, func(ctx context.Context) error { return d.deployRegistry(ctx, b) }},
		{"build the functions and the image", []string{
			"run " + commandLine(samCLI, buildFunctions()),
			"compile bastiond for linux/amd64 and linux/arm64, and write the image to .image",
		}, func(ctx context.Context) error { return d.build(ctx, b) }},
		{"push the image", []string{"push to the repository in the registry's stack what it does not have"},
			func(ctx context.Context) (err error) {
				b.reference, err = d.Images.Push(ctx, b.repository)
				return err
			}},
		{"verify the image's digest", []string{"look up the digest that was built in ECR"},
			func(ctx context.Context) error { return d.verify(ctx, b) }},
		{"deploy the service, stack " + s.Stack, []string{
			"run " + commandLine(samCLI, deployTemplate(builtTemplate, s.Stack, d.region(), d.parameters("REPOSITORY@sha256:DIGEST"))),
		}, func(ctx context.Context) error { return d.deployService(ctx, b) }},
		{"send a test request", []string{"send a signed GET to the service's URL, which must return 200"},
			func(ctx context.Context) (err error) {
				b.smoked, err = d.smoke(ctx)
				return err
			}},
	}
	if s.SkipTrial {
		return steps
	}
	return append(steps, step{"try a bastion", []string{
		"invoke the function of POST /bastions for an owner that no person can be, with a new key, a random name and a ttl of " + bastion.FormatTTL(trialTTL),
		"wait until the bastion is ready, and print each stage",
		"connect to it with SSH, compare its host key, and open its console",
		"invoke the function of DELETE /bastions/{id}, also after a failure and after Ctrl-C",
		"wait until its task has stopped and its security group admits no address",
	}, func(ctx context.Context) error { return d.tryBastion(ctx, b.smoked) }})
}

func (d *Deployment) describeChecks() []string {
	all := []string{"look for go, make and python3", "read the parameters in " + templateFile, "look up your AWS identity in " + d.region()}
	for _, c := range d.checks() {
		all = append(all, "check "+c.what)
	}
	return all
}

// region returns the region for messages, or a placeholder.
func (d *Deployment) region() string {
	if d.Cloud.Region == "" {
		return "REGION"
	}
	return d.Cloud.Region
}

func (d *Deployment) deployRegistry(ctx context.Context, b *built) error {
	if err := d.Runner.Run(ctx, "scripts/emulators", "sam"); err != nil {
		return err
	}
	name := d.Settings.Registry()
	if err := ready(ctx, d.Cloud.Stacks, d.Progress, name); err != nil {
		return err
	}
	if err := d.Runner.Run(ctx, samCLI, deployTemplate("registry.yaml", name, d.Cloud.Region, nil)...); err != nil {
		return err
	}
	s, err := fetchStack(ctx, d.Cloud.Stacks, name)
	if err != nil {
		return err
	}
	if b.repository = s.outputs["RepositoryUri"]; b.repository == "" {
		return fmt.Errorf("the stack %s has no output RepositoryUri; was it created from another registry.yaml?", name)
	}
	fmt.Fprintf(d.Progress.W, "the repository is %s\n", b.repository)
	return nil
}

func (d *Deployment) build(ctx context.Context, b *built) (err error) {
	if err := d.Runner.Run(ctx, samCLI, buildFunctions()...); err != nil {
		return err
	}
	b.digest, err = d.Images.Build(ctx)
	return err
}

// verify looks the image up in ECR's own API. The push used the registry's API.
func (d *Deployment) verify(ctx context.Context, b *built) error {
	if want := b.repository + "@" + b.digest; b.reference != want {
		return fmt.Errorf("the pushed image is %s, and the built one %s", b.reference, want)
	}
	_, name, _ := strings.Cut(b.repository, "/")
	out, err := d.Cloud.ECR.DescribeImages(ctx, &ecr.DescribeImagesInput{
		RepositoryName: &name, ImageIds: []ecrtypes.ImageIdentifier{{ImageDigest: &b.digest}},
	})
	if err != nil {
		return fmt.Errorf("look up %s in ECR: %w", b.reference, err)
	}
	if len(out.ImageDetails) != 1 || out.ImageDetails[0].ImageDigest == nil || *out.ImageDetails[0].ImageDigest != b.digest {
		return fmt.Errorf("ECR does not have %s", b.reference)
	}
	fmt.Fprintf(d.Progress.W, "ECR has %s\n", b.reference)
	return nil
}

// parameters returns the parameters to set on the service's stack. Others keep their
// values, or start with the template's defaults.
func (d *Deployment) parameters(reference string) map[string]string {
	all := map[string]string{"Draining": "false"}
	maps.Copy(all, d.Settings.Parameters)
	all["ImageUri"] = reference
	all["VpcId"] = d.Settings.VPC
	all["SubnetIds"] = strings.Join(d.Settings.Subnets, ",")
	return all
}

func (d *Deployment) deployService(ctx context.Context, b *built) error {
	if err := ready(ctx, d.Cloud.Stacks, d.Progress, d.Settings.Stack); err != nil {
		return err
	}
	return d.Runner.Run(ctx, samCLI, deployTemplate(builtTemplate, d.Settings.Stack, d.Cloud.Region, d.parameters(b.reference))...)
}
