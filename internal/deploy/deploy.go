// Package deploy installs the service in an AWS account, and removes it.
//
// A deployment is a list of steps in a fixed order, each of which can be repeated:
// checks, registry, build, push, verify, upload, deploy, test request, trial. A dry run
// checks what it can without a call, prints the list and calls nothing. The only programs that a deployment runs are make
// and go.
// The steps call AWS through the interfaces in cloud.go.
package deploy

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws/arn"
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
	if d.Settings.DryRun {
		if err := d.checkGiven(ctx); err != nil {
			return err
		}
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
	repository, digest, reference string   // of the image
	account                       string   // of the registry's stack
	bucket, domain                string   // of the code
	template                      template // of the service, read once
	functions                     []function
	templateURL                   string
	smoked                        smoked
}

func (d *Deployment) deploySteps(b *built) []step {
	s := d.Settings
	steps := []step{
		{"check this machine, the account and the network", d.describeChecks(), func(ctx context.Context) error { return d.readAndCheck(ctx, b) }},
		{"deploy the registry, stack " + s.Registry(), []string{
			"create or update the stack with " + registryFile + describeTags(s.Tags),
		}, func(ctx context.Context) error { return d.deployRegistry(ctx, b) }},
		{"build the functions and the image", []string{
			"run " + commandLine("make", buildArguments("FUNCTION", "FOLDER")) + " for each function of " + templateFile + ", and zip the results",
			"compile bastiond for linux/amd64 and linux/arm64, and write the image to .image",
		}, func(ctx context.Context) error { return d.build(ctx, b) }},
		{"push the image", []string{"push to the repository in the registry's stack what it does not have"},
			func(ctx context.Context) (err error) {
				b.reference, err = d.Images.Push(ctx, b.repository)
				return err
			}},
		{"verify the image's digest", []string{"look up the digest that was built in ECR"},
			func(ctx context.Context) error { return d.verify(ctx, b) }},
		{"upload the functions' code and the template", []string{
			"upload what is not in the bucket of the registry's stack: the code of the functions, and " + templateFile + " with the code's places",
		}, func(ctx context.Context) error { return d.uploadAll(ctx, b) }},
		{"deploy the service, stack " + s.Stack, append([]string{
			"create or update the stack with the uploaded template" + describeTags(s.Tags) + ", and these parameters; others keep their values",
		}, described("set ", d.parameters("REPOSITORY@sha256:DIGEST"))...), func(ctx context.Context) error { return d.deployService(ctx, b) }},
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
	all := []string{"look for go and make", "read the parameters in " + templateFile, "look up your AWS identity in " + d.region()}
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

// describeTags returns what a dry run says about tags.
func describeTags(tags map[string]string) string {
	if tags == nil {
		return ""
	}
	return " and the tags " + strings.Join(described("", tags), " ")
}

// described returns a text for each element of a map, in order.
func described(prefix string, values map[string]string) (all []string) {
	for _, name := range slices.Sorted(maps.Keys(values)) {
		all = append(all, prefix+name+"="+values[name])
	}
	return all
}

// readAndCheck reads the service's template, and does all checks.
func (d *Deployment) readAndCheck(ctx context.Context, b *built) (err error) {
	if b.template, err = readTemplate(d.Settings.Module, templateFile); err != nil {
		return err
	}
	return d.check(ctx, b.template)
}

func (d *Deployment) deployRegistry(ctx context.Context, b *built) error {
	t, err := readTemplate(d.Settings.Module, registryFile)
	if err != nil {
		return err
	}
	name := d.Settings.Registry()
	if err := d.deployStack(ctx, revision{stack: name, template: t, body: string(t.text), tags: d.Settings.Tags}); err != nil {
		return err
	}
	s, err := fetchStack(ctx, d.Cloud.Stacks, name)
	if err != nil {
		return err
	}
	for output, value := range map[string]*string{"RepositoryUri": &b.repository, "CodeBucketName": &b.bucket, "CodeBucketDomain": &b.domain} {
		if *value = s.outputs[output]; *value == "" {
			return fmt.Errorf("the stack %s has no output %s; was it created from another %s?", name, output, registryFile)
		}
	}
	id, err := arn.Parse(s.id)
	if err != nil {
		return fmt.Errorf("read the ID of the stack %s: %w", name, err)
	}
	b.account = id.AccountID
	fmt.Fprintf(d.Progress.W, "the repository is %s\nthe bucket is %s\n", b.repository, b.bucket)
	return nil
}

func (d *Deployment) build(ctx context.Context, b *built) (err error) {
	if b.functions, err = d.buildFunctions(ctx, b.template); err != nil {
		return err
	}
	b.digest, err = d.Images.Build(ctx)
	return err
}

// uploadAll uploads the code, and then the template, which is too large to be sent with a
// change set.
func (d *Deployment) uploadAll(ctx context.Context, b *built) error {
	for _, f := range b.functions {
		if err := d.upload(ctx, b.bucket, b.account, f.code); err != nil {
			return err
		}
	}
	text, err := b.template.withCode(b.bucket, b.functions)
	if err != nil {
		return err
	}
	o := newObject("the template", "templates/", ".yaml", text)
	b.templateURL = "https://" + b.domain + "/" + o.key
	return d.upload(ctx, b.bucket, b.account, o)
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
	return d.deployStack(ctx, revision{
		stack: d.Settings.Stack, template: b.template, url: b.templateURL, parameters: d.parameters(b.reference), tags: d.Settings.Tags,
	})
}
