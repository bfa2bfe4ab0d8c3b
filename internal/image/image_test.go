package image

import (
	"archive/tar"
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/crypto/x509roots/fallback/bundle"
)

func TestTheSameFilesGiveTheSameDigest(t *testing.T) {
	if one, other := summarize(t, fake(t)), summarize(t, makeFake(t)); !reflect.DeepEqual(one, other) {
		t.Errorf("%+v\n%+v", one, other)
	}
	a, b := file{"a", 0o444, []byte("a")}, file{"x/b", 0o444, []byte("b")}
	if one, other := digest(t, a, b), digest(t, b, a); one != other {
		t.Errorf("the order of the files changes the layer")
	}
	if one, other := digest(t, a), digest(t, file{"a", 0o444, []byte("A")}); one == other {
		t.Errorf("another file gives the same layer")
	}
}

func digest(t *testing.T, files ...file) v1.Hash {
	t.Helper()
	layer, err := newLayer(files)
	if err != nil {
		t.Fatal(err)
	}
	digest, err := layer.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return digest
}

// Nothing else is in the image, so no shell is, and no library either.
func TestTheLayerHoldsExactlyThis(t *testing.T) {
	want := []string{
		"bastiond -r-xr-xr-x", "etc/ drwxr-xr-x", "etc/ssl/ drwxr-xr-x", "etc/ssl/certs/ drwxr-xr-x",
		"etc/ssl/certs/ca-certificates.crt -r--r--r--",
	}
	for i, image := range images(t, fake(t)) {
		layers, err := image.Layers()
		if err != nil || len(layers) != 1 {
			t.Fatalf("%d layers, %v", len(layers), err)
		}
		var got []string
		read(t, layers[0], func(header *tar.Header, data []byte) {
			got = append(got, header.Name+" "+header.FileInfo().Mode().String())
			if header.Uid != 0 || header.Gid != 0 || !header.ModTime.Equal(epoch) {
				t.Errorf("%s is of user %d, group %d and %s", header.Name, header.Uid, header.Gid, header.ModTime)
			}
			if program := "a program for " + Platforms[i].String(); header.Name == "bastiond" && string(data) != program {
				t.Errorf("%s is %q", header.Name, data)
			}
		})
		if !slices.Equal(got, want) {
			t.Errorf("the layer holds\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		if kind, err := layers[0].MediaType(); err != nil || kind != types.OCILayerZStd {
			t.Errorf("%s, %v", kind, err)
		}
	}
}

// read unpacks a layer, whole.
func read(t *testing.T, layer v1.Layer, each func(*tar.Header, []byte)) {
	t.Helper()
	packed, err := layer.Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer packed.Close()
	for in := tar.NewReader(packed); ; {
		header, err := in.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		each(header, data)
	}
}

func TestTheConfigurationIsOfNobodyAndNamesNoShell(t *testing.T) {
	for i, image := range images(t, fake(t)) {
		config, err := image.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		want := v1.Config{
			User: "65532:65532", Entrypoint: []string{"/bastiond"}, WorkingDir: "/",
			ExposedPorts: map[string]struct{}{"2222/tcp": {}},
			Labels: map[string]string{
				"org.opencontainers.image.title":    "bastiond",
				"org.opencontainers.image.source":   "https://github.com/bastion-on-demand/bastion",
				"org.opencontainers.image.licenses": "Apache-2.0",
				"org.opencontainers.image.revision": "0123abc",
			},
		}
		if !reflect.DeepEqual(config.Config, want) {
			t.Errorf("%+v\nwant %+v", config.Config, want)
		}
		if !config.Platform().Equals(Platforms[i]) || !config.Created.Equal(epoch) || len(config.History) != 1 {
			t.Errorf("%+v", config)
		}
	}
	if _, named := labels("")["org.opencontainers.image.revision"]; named {
		t.Error("a revision that is not known is named")
	}
}

func TestTheIndexIsValidAndOCIThroughout(t *testing.T) {
	index := fake(t)
	wantSound(t, index)
	list, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if list.MediaType != types.OCIImageIndex || len(list.Manifests) != len(Platforms) || list.Annotations["org.opencontainers.image.revision"] != "0123abc" {
		t.Errorf("%+v", list)
	}
	for i, one := range list.Manifests {
		if one.MediaType != types.OCIManifestSchema1 || !one.Platform.Equals(Platforms[i]) {
			t.Errorf("%+v", one)
		}
	}
	for _, image := range images(t, index) {
		manifest, err := image.Manifest()
		if err != nil || manifest.MediaType != types.OCIManifestSchema1 || manifest.Config.MediaType != types.OCIConfigJSON {
			t.Errorf("%+v, %v", manifest, err)
		}
	}
}

// wantSound holds every digest and size that is written somewhere to what it is of.
func wantSound(t *testing.T, index v1.ImageIndex) {
	t.Helper()
	for _, image := range images(t, index) {
		config, err := image.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		layers, err := image.Layers()
		if err != nil || len(layers) != len(config.RootFS.DiffIDs) {
			t.Fatalf("%d layers, %d diff ids, %v", len(layers), len(config.RootFS.DiffIDs), err)
		}
		for i, layer := range layers {
			packed, err := layer.Compressed()
			wantDigest(t, packed, err, layer.Digest)
			unpacked, err := layer.Uncompressed()
			wantDigest(t, unpacked, err, func() (v1.Hash, error) { return config.RootFS.DiffIDs[i], nil })
		}
	}
}

func wantDigest(t *testing.T, data io.ReadCloser, err error, want func() (v1.Hash, error)) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer data.Close()
	got, _, err := v1.SHA256(data)
	if err != nil {
		t.Fatal(err)
	}
	if claimed, err := want(); err != nil || got != claimed {
		t.Errorf("%s is said to be %s (%v)", got, claimed, err)
	}
}

func TestCertificatesAreThoseWithoutConditions(t *testing.T) {
	all, err := certificates()
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	count := 0
	for block, rest := pem.Decode(all); block != nil; block, rest = pem.Decode(rest) {
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil || !certificate.IsCA {
			t.Fatalf("%v", err)
		}
		names[certificate.Subject.CommonName] = true
		count++
	}
	// These sign for AWS: https://www.amazontrust.com/repository/.
	for _, need := range []string{"Amazon Root CA 1", "Amazon Root CA 2", "Amazon Root CA 3", "Amazon Root CA 4"} {
		if !names[need] {
			t.Errorf("%s is missing", need)
		}
	}
	for root := range bundle.Roots() {
		encoded := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate})
		if bytes.Contains(all, encoded) != (root.Constraint == nil) {
			t.Errorf("a certificate with condition %t is in the file: %t", root.Constraint != nil, root.Constraint == nil)
		}
	}
	if !x509.NewCertPool().AppendCertsFromPEM(all) || count < 100 {
		t.Errorf("%d certificates", count)
	}
}
