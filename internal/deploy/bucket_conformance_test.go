//go:build conformance

package deploy

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
	"go.yaml.in/yaml/v4"

	"github.com/bastion-on-demand/bastion/internal/image"
	"github.com/bastion-on-demand/bastion/internal/test/emulator"
)

// counter counts the requests by method, and for a POST by its query.
type counter struct {
	http.RoundTripper
	requests []string
}

func (c *counter) RoundTrip(r *http.Request) (*http.Response, error) {
	c.requests = append(c.requests, r.Method)
	return c.RoundTripper.RoundTrip(r)
}

// withMoto returns a deployment whose S3 and CloudFormation are moto's.
func withMoto(t *testing.T) (*Deployment, *counter, *strings.Builder) {
	t.Helper()
	url := emulator.Moto(t) // first, because it does not work in a cleaned environment
	cleanEnvironment(t)
	t.Setenv("AWS_ENDPOINT_URL", url)
	count := &counter{RoundTripper: &http.Transport{DisableKeepAlives: true}}
	cloud, err := Connect(t.Context(), "eu-west-1", &http.Client{Transport: count})
	if err != nil {
		t.Fatal(err)
	}
	// moto finds the bucket in the path: *.127.0.0.1 has no address.
	cloud.Objects = s3.New(cloud.Objects.(*s3.Client).Options(), func(o *s3.Options) { o.UsePathStyle = true })
	var out strings.Builder
	return &Deployment{Settings: newWorld().settings, Cloud: cloud, Progress: image.Progress{W: &out}}, count, &out
}

// bucketOnly returns registry.yaml without what moto's CloudFormation does not have: the
// policy of the bucket, and outputs and the name of the repository.
func bucketOnly(t *testing.T) revision {
	t.Helper()
	registry, err := readTemplate("../..", registryFile)
	if err != nil {
		t.Fatal(err)
	}
	for section, names := range map[string][]string{
		"Resources": {"Registry", "CodeBucketPolicy"}, "Outputs": {"RepositoryUri", "RepositoryName", "CodeBucketDomain"},
	} {
		for _, name := range names {
			remove(field(registry.root, section), name)
		}
	}
	text, err := yaml.Marshal(registry.root)
	if err != nil {
		t.Fatal(err)
	}
	return revision{stack: "bastion-registry", body: string(text), tags: map[string]string{"Team": "a"}}
}

// The bucket is created in moto by a change set, the code is uploaded once, and all
// versions are deleted with the bucket.
func TestCodeBucketInMoto(t *testing.T) {
	d, count, out := withMoto(t)
	ctx := t.Context()
	r := bucketOnly(t)
	for range 2 { // the second time, nothing changes
		if err := d.deployStack(ctx, r); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	if !strings.Contains(out.String(), "the stack bastion-registry is up to date") {
		t.Errorf("the second deployment:\n%s", out)
	}
	s, err := fetchStack(ctx, d.Cloud.Stacks, "bastion-registry")
	if err != nil || s.status != types.StackStatusCreateComplete || s.tags["Team"] != "a" {
		t.Fatalf("%+v, %v", s, err)
	}
	all, err := resources(ctx, d.Cloud.Stacks, s.id) // moto has no outputs for stacks of change sets
	if err != nil || len(all) != 1 || all[0].kind != "AWS::S3::Bucket" {
		t.Fatalf("%+v, %v", all, err)
	}
	bucket, account := all[0].physical, strings.Split(s.id, ":")[4]

	o := newObject("the code", "functions/", ".zip", bytes.Repeat([]byte("code"), 1<<20))
	for _, want := range [][]string{{"HEAD", "PUT"}, {"HEAD"}} {
		count.requests = nil
		if err := d.upload(ctx, bucket, account, o); err != nil || !slices.Equal(count.requests, want) {
			t.Errorf("the requests are %q, want %q: %v", count.requests, want, err)
		}
	}
	got, err := d.Cloud.Objects.(*s3.Client).GetObject(ctx, &s3.GetObjectInput{Bucket: &bucket, Key: &o.key})
	if err != nil {
		t.Fatal(err)
	}
	defer got.Body.Close()
	if content, err := io.ReadAll(got.Body); err != nil || !bytes.Equal(content, o.content) {
		t.Errorf("%d bytes, %v", len(content), err)
	}

	// An object that somebody has replaced is sent again.
	if _, err := d.Cloud.Objects.PutObject(ctx, &s3.PutObjectInput{Bucket: &bucket, Key: &o.key, Body: strings.NewReader("other")}); err != nil {
		t.Fatal(err)
	}
	count.requests = nil
	if err := d.upload(ctx, bucket, account, o); err != nil || !slices.Equal(count.requests, []string{"HEAD", "PUT"}) {
		t.Errorf("a replaced object: %q, %v", count.requests, err)
	}
	fill(t, d, bucket)
	if err := d.deleteBucket(ctx, bucket); err != nil {
		t.Fatal(err)
	}
	_, err = d.Cloud.Objects.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: &bucket})
	if !isCode(err, "NotFound") {
		t.Errorf("the bucket after its deletion: %v", err)
	}
	if err := d.deleteBucket(ctx, bucket); err != nil {
		t.Errorf("the second deletion: %v", err)
	}
}

// fill adds more versions to the bucket than S3 lists and deletes at once, and delete markers.
func fill(t *testing.T, d *Deployment, bucket string) {
	t.Helper()
	client := d.Cloud.Objects.(*s3.Client)
	// moto's CloudFormation ignores VersioningConfiguration.
	if _, err := client.PutBucketVersioning(t.Context(), &s3.PutBucketVersioningInput{
		Bucket: &bucket, VersioningConfiguration: &s3types.VersioningConfiguration{Status: s3types.BucketVersioningStatusEnabled},
	}); err != nil {
		t.Fatal(err)
	}
	for i := range 1010 {
		key := fmt.Sprintf("templates/%d", i/2) // two versions each
		if _, err := client.PutObject(t.Context(), &s3.PutObjectInput{Bucket: &bucket, Key: &key, Body: strings.NewReader(key)}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3 {
		key := fmt.Sprintf("templates/%d", i)
		if _, err := client.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: &bucket, Key: aws.String(key)}); err != nil {
			t.Fatal(err)
		}
	}
	page, err := client.ListObjectVersions(t.Context(), &s3.ListObjectVersionsInput{Bucket: &bucket})
	if err != nil || !aws.ToBool(page.IsTruncated) {
		t.Fatalf("%d versions fit in one page: %v", len(page.Versions), err)
	}
}
