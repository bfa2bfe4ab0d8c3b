package deploy

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ecr"
	ecrtypes "github.com/aws/aws-sdk-go-v2/service/ecr/types"

	"github.com/bastion-on-demand/bastion/internal/image"
)

// Images builds bastiond's image and pushes it.
type Images interface {
	// Build answers the digest, as "sha256:…".
	Build(ctx context.Context) (digest string, err error)
	// Push sends what Build made, checks that all of it arrived, and answers
	// "REPOSITORY@sha256:…". What is there is not sent again.
	Push(ctx context.Context, repository string) (reference string, err error)
}

// Deployment is all that deploying and taking away need.
type Deployment struct {
	Settings Settings
	Cloud    Cloud
	Images   Images
	Runner   Runner
	HTTP     *http.Client // for the smoke request
	LookPath func(program string) (string, error)
	Now      func() time.Time // for signatures
	Progress image.Progress
}

// Deploy makes the account be as the settings say. It is safe to repeat, after a
// failure or without one. All that is wrong with the settings is one error, and
// nothing was called then.
func (d *Deployment) Deploy(ctx context.Context) error {
	if err := d.Settings.Validate(); err != nil {
		return err
	}
	return play(ctx, d.Progress.W, d.Settings.DryRun, "make deploy", d.deploySteps())
}

// built is what the steps hand on.
type built struct{ repository, digest, reference string }

func (d *Deployment) deploySteps() []step {
	s, b := d.Settings, &built{}
	return []step{
		{"check that this machine, the account and the network are ready", d.describeChecks(), d.check},
		{"deploy the registry, stack " + s.Registry(), []string{
			"run scripts/emulators sam, which installs the SAM CLI into .tools",
			"run " + commandLine(samCLI, deployTemplate("registry.yaml", s.Registry(), d.region(), nil)),
		}, func(ctx context.Context) error { return d.deployRegistry(ctx, b) }},
		{"build the functions and the image", []string{
			"run " + commandLine(samCLI, buildFunctions()),
			"compile bastiond for linux/amd64 and linux/arm64, and make the image in .image",
		}, func(ctx context.Context) error { return d.build(ctx, b) }},
		{"push the image", []string{"push to the repository that the registry's stack names, what is not there yet"},
			func(ctx context.Context) (err error) {
				b.reference, err = d.Images.Push(ctx, b.repository)
				return err
			}},
		{"verify the image's digest", []string{"ask ECR for the image by the digest that was built"},
			func(ctx context.Context) error { return d.verify(ctx, b) }},
		{"deploy the service, stack " + s.Stack, []string{
			"run " + commandLine(samCLI, deployTemplate(builtTemplate, s.Stack, d.region(), d.parameters("REPOSITORY@sha256:DIGEST"))),
		}, func(ctx context.Context) error { return d.deployService(ctx, b) }},
		{"send a smoke request", []string{"send a signed GET to the service's URL, which must answer 200, and print a command to begin with"},
			d.smoke},
	}
}

func (d *Deployment) describeChecks() []string {
	all := []string{"look for go, make and python3", "read the parameters in " + templateFile, "ask AWS who you are, and where (" + d.region() + ")"}
	for _, c := range d.checks() {
		all = append(all, "check "+c.what)
	}
	return all
}

// region is for what is printed when there may be none.
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
		return fmt.Errorf("the stack %s has no output RepositoryUri; was it made from another registry.yaml?", name)
	}
	fmt.Fprintf(d.Progress.W, "images go to %s\n", b.repository)
	return nil
}

func (d *Deployment) build(ctx context.Context, b *built) (err error) {
	if err := d.Runner.Run(ctx, samCLI, buildFunctions()...); err != nil {
		return err
	}
	b.digest, err = d.Images.Build(ctx)
	return err
}

// verify asks ECR itself, as whoever deploys: what the push talked to was the
// registry's other face.
func (d *Deployment) verify(ctx context.Context, b *built) error {
	if want := b.repository + "@" + b.digest; b.reference != want {
		return fmt.Errorf("what was pushed is %s, and what was built %s", b.reference, want)
	}
	_, name, _ := strings.Cut(b.repository, "/")
	answer, err := d.Cloud.ECR.DescribeImages(ctx, &ecr.DescribeImagesInput{
		RepositoryName: &name, ImageIds: []ecrtypes.ImageIdentifier{{ImageDigest: &b.digest}},
	})
	if err != nil {
		return fmt.Errorf("ask ECR for %s: %w", b.reference, err)
	}
	if len(answer.ImageDetails) != 1 || answer.ImageDetails[0].ImageDigest == nil || *answer.ImageDetails[0].ImageDigest != b.digest {
		return fmt.Errorf("ECR does not have %s", b.reference)
	}
	fmt.Fprintf(d.Progress.W, "ECR has %s\n", b.reference)
	return nil
}

// parameters are what the service's stack is given. Those that nobody names stay
// as they are, or begin with the template's defaults.
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
