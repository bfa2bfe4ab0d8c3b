package deploy

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"sync/atomic"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// object is a file for the bucket. Its key contains the hash of its content, so different
// content has a different key.
type object struct {
	what    string // for messages
	key     string
	sum     [sha256.Size]byte
	content []byte
}

func newObject(what, prefix, suffix string, content []byte) object {
	sum := sha256.Sum256(content)
	return object{what, prefix + hex.EncodeToString(sum[:]) + suffix, sum, content}
}

// upload sends an object to the bucket, unless the bucket has it with the same checksum.
// S3 computes the checksum of what it receives, and refuses other content. It also refuses
// if the bucket belongs to another account: when a bucket is deleted, anyone may create one
// of the same name, and the functions would run that account's code.
func (d *Deployment) upload(ctx context.Context, bucket, owner string, o object) error {
	sum := base64.StdEncoding.EncodeToString(o.sum[:])
	head, err := d.Cloud.Objects.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &bucket, ExpectedBucketOwner: &owner, Key: &o.key, ChecksumMode: s3types.ChecksumModeEnabled})
	if err != nil && !isCode(err, "NotFound") {
		return fmt.Errorf("look for %s (%s) in the bucket %s: %w", o.what, o.key, bucket, err)
	}
	if err == nil && aws.ToString(head.ChecksumSHA256) == sum {
		fmt.Fprintf(d.Progress.W, "%s is in the bucket already\n", o.what)
		return nil
	}
	size := int64(len(o.content))
	body := &counted{content: bytes.NewReader(o.content)}
	detail := func() string { return megabytes(body.at.Load()) + " of " + megabytes(size) }
	err = d.Progress.Step(fmt.Sprintf("upload %s, %s", o.what, megabytes(size)), detail, func() error {
		_, err := d.Cloud.Objects.PutObject(ctx, &s3.PutObjectInput{
			Bucket: &bucket, ExpectedBucketOwner: &owner, Key: &o.key, Body: body, ContentLength: &size,
			ChecksumAlgorithm: s3types.ChecksumAlgorithmSha256, ChecksumSHA256: &sum,
		})
		return err
	})
	if err != nil {
		return fmt.Errorf("upload %s (%s) to the bucket %s: %w", o.what, o.key, bucket, err)
	}
	return nil
}

// counted is a reader that knows its position. A repeated request starts again at 0.
type counted struct {
	content *bytes.Reader
	at      atomic.Int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.content.Read(p)
	c.at.Add(int64(n))
	return n, err
}

func (c *counted) Seek(offset int64, whence int) (int64, error) {
	at, err := c.content.Seek(offset, whence)
	c.at.Store(at)
	return at, err
}

// deleteBucket deletes all versions of all objects, in batches of at most 1,000, which is
// the most that S3 lists and deletes at once, and then the bucket. The bucket may not
// exist.
func (d *Deployment) deleteBucket(ctx context.Context, bucket string) error {
	var deleted atomic.Int64
	detail := func() string { return fmt.Sprintf("%d versions deleted", deleted.Load()) }
	err := d.Progress.Step("delete the bucket "+bucket+" with all versions of its objects", detail, func() error {
		for {
			n, err := d.deleteVersions(ctx, bucket)
			if err != nil {
				return err
			}
			if n == 0 {
				break
			}
			deleted.Add(int64(n))
		}
		_, err := d.Cloud.Objects.DeleteBucket(ctx, &s3.DeleteBucketInput{Bucket: &bucket})
		return err
	})
	if err != nil && !isCode(err, "NoSuchBucket") {
		return fmt.Errorf("delete the bucket %s: %w", bucket, err)
	}
	return nil
}

// deleteVersions deletes the versions and delete markers of one page, and returns their
// number.
func (d *Deployment) deleteVersions(ctx context.Context, bucket string) (int, error) {
	page, err := d.Cloud.Objects.ListObjectVersions(ctx, &s3.ListObjectVersionsInput{Bucket: &bucket, MaxKeys: aws.Int32(1000)})
	if err != nil {
		return 0, err
	}
	var all []s3types.ObjectIdentifier
	for _, v := range page.Versions {
		all = append(all, s3types.ObjectIdentifier{Key: v.Key, VersionId: v.VersionId})
	}
	for _, m := range page.DeleteMarkers {
		all = append(all, s3types.ObjectIdentifier{Key: m.Key, VersionId: m.VersionId})
	}
	if len(all) == 0 {
		return 0, nil
	}
	out, err := d.Cloud.Objects.DeleteObjects(ctx, &s3.DeleteObjectsInput{
		Bucket: &bucket, Delete: &s3types.Delete{Objects: all, Quiet: aws.Bool(true)},
	})
	if err != nil {
		return 0, err
	}
	if n := len(out.Errors); n > 0 {
		first := out.Errors[0]
		return 0, fmt.Errorf("S3 did not delete %d of %d versions, for example %s: %s: %s",
			n, len(all), aws.ToString(first.Key), aws.ToString(first.Code), aws.ToString(first.Message))
	}
	return len(all), nil
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }
