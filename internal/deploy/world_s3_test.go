package deploy

import (
	"context"
	"fmt"
	"io"
	"path"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// version is a version of an object in the world's bucket, or a delete marker.
type version struct {
	key, id string
	content []byte
	sum     *string
	marker  bool
}

// newest returns the newest version of an object, or nil.
func (w *world) newest(key string) *version {
	for _, v := range slices.Backward(w.versions) {
		if v.key == key && !v.marker {
			return &v
		}
	}
	return nil
}

func (w *world) HeadBucket(context.Context, *s3.HeadBucketInput, ...func(*s3.Options)) (*s3.HeadBucketOutput, error) {
	if !w.bucket {
		return nil, refusal("NotFound", "none")
	}
	return &s3.HeadBucketOutput{}, w.call("HeadBucket")
}

func (w *world) HeadObject(_ context.Context, in *s3.HeadObjectInput, _ ...func(*s3.Options)) (*s3.HeadObjectOutput, error) {
	if err := w.call("HeadObject %s", path.Dir(*in.Key)); err != nil {
		return nil, err
	}
	if in.ExpectedBucketOwner != nil && *in.ExpectedBucketOwner != w.owner {
		return nil, refusal("Forbidden", "Forbidden")
	}
	found := w.newest(*in.Key)
	if found == nil {
		return nil, refusal("NotFound", "none")
	}
	return &s3.HeadObjectOutput{ChecksumSHA256: found.sum}, nil
}

func (w *world) PutObject(_ context.Context, in *s3.PutObjectInput, _ ...func(*s3.Options)) (*s3.PutObjectOutput, error) {
	if err := w.call("PutObject %s", path.Dir(*in.Key)); err != nil {
		return nil, err
	}
	if in.ExpectedBucketOwner != nil && *in.ExpectedBucketOwner != w.owner {
		return nil, refusal("AccessDenied", "Access Denied")
	}
	content, err := io.ReadAll(in.Body)
	w.versions = append(w.versions, version{key: *in.Key, id: fmt.Sprint("v", len(w.versions)), content: content, sum: in.ChecksumSHA256})
	return &s3.PutObjectOutput{}, err
}

// versionsPage is the number of versions in a page.
const versionsPage = 4

func (w *world) ListObjectVersions(context.Context, *s3.ListObjectVersionsInput, ...func(*s3.Options)) (*s3.ListObjectVersionsOutput, error) {
	out := &s3.ListObjectVersionsOutput{}
	for _, v := range w.versions[:min(len(w.versions), versionsPage)] {
		if v.marker {
			out.DeleteMarkers = append(out.DeleteMarkers, s3types.DeleteMarkerEntry{Key: &v.key, VersionId: &v.id})
		} else {
			out.Versions = append(out.Versions, s3types.ObjectVersion{Key: &v.key, VersionId: &v.id})
		}
	}
	return out, w.call("ListObjectVersions")
}

func (w *world) DeleteObjects(_ context.Context, in *s3.DeleteObjectsInput, _ ...func(*s3.Options)) (*s3.DeleteObjectsOutput, error) {
	if err := w.call("DeleteObjects"); err != nil {
		return nil, err
	}
	if denied := w.fail["delete versions"]; denied != nil {
		return &s3.DeleteObjectsOutput{Errors: []s3types.Error{{Key: in.Delete.Objects[0].Key, Code: aws.String("AccessDenied"), Message: aws.String(denied.Error())}}}, nil
	}
	for _, o := range in.Delete.Objects {
		w.versions = slices.DeleteFunc(w.versions, func(v version) bool { return v.key == *o.Key && v.id == *o.VersionId })
	}
	return &s3.DeleteObjectsOutput{}, nil
}

func (w *world) DeleteBucket(_ context.Context, in *s3.DeleteBucketInput, _ ...func(*s3.Options)) (*s3.DeleteBucketOutput, error) {
	if err := w.call("DeleteBucket %s", *in.Bucket); err != nil {
		return nil, err
	}
	if len(w.versions) > 0 {
		return nil, refusal("BucketNotEmpty", "The bucket you tried to delete is not empty. You must delete all versions in the bucket.")
	}
	w.bucket = false
	return &s3.DeleteBucketOutput{}, nil
}
