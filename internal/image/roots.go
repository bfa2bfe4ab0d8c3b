package image

import (
	"bytes"
	"encoding/pem"
	"fmt"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// certificates is Mozilla's list of CAs as a PEM file, as the pinned module has
// it. Left out are CAs that are trusted under a condition only (for what they
// signed before some day): a PEM file cannot say so.
func certificates() ([]byte, error) {
	var file bytes.Buffer
	for root := range bundle.Roots() {
		if root.Constraint != nil {
			continue
		}
		if err := pem.Encode(&file, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}); err != nil {
			return nil, fmt.Errorf("encode a CA certificate: %w", err)
		}
	}
	return file.Bytes(), nil
}
