package authn

import (
	"errors"
	"fmt"
	"strings"
)

// Bounds of what a mapping may give. They keep usernames, extras and the
// impersonation headers they become far below any server's limits.
const (
	maxRunBytes     = 128
	maxSubjectBytes = 200
	maxProfileBytes = 63
	maxTextBytes    = 256
)

// The errors continue a sentence that starts with the field's name, and don't
// quote the value.

func checkSubject(s string) error {
	if s == "" {
		return errors.New("is empty")
	}
	if strings.Contains(s, " ") {
		return errors.New("holds a space")
	}
	return checkPlain(s, maxSubjectBytes)
}

func checkRun(s string) error {
	if s == "" {
		return errors.New("is empty: an agent without a run is refused")
	}
	if err := checkPlain(s, maxRunBytes); err != nil {
		return err
	}
	return checkEach(s, "A-Za-z0-9._:/@+-", func(c byte) bool {
		return isAlphanumeric(c) || strings.IndexByte("._:/@+-", c) >= 0
	})
}

func checkProfile(s string) error {
	if s == "" {
		return errors.New("is empty")
	}
	if err := checkPlain(s, maxProfileBytes); err != nil {
		return err
	}
	return checkEach(s, "a-z0-9-", func(c byte) bool {
		return isAlphanumeric(c) && (c < 'A' || c > 'Z') || c == '-'
	})
}

func checkText(s string) error { return checkPlain(s, maxTextBytes) }

// checkPlain holds s to printable ASCII that survives a header line unchanged,
// and keeps Kubernetes' own names out (I1).
func checkPlain(s string, maxBytes int) error {
	if len(s) > maxBytes {
		return fmt.Errorf("is longer than %d bytes", maxBytes)
	}
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return errors.New("holds characters other than printable ASCII")
		}
	}
	// Impersonation carries names as header values, whose outer spaces are cut
	// (RFC 9110 section 5.5): two names must not become one.
	if strings.TrimSpace(s) != s {
		return errors.New("starts or ends with a space")
	}
	if strings.HasPrefix(strings.ToLower(s), "system:") {
		return errors.New(`starts with "system:", which is kept for Kubernetes`)
	}
	return nil
}

func checkEach(s, allowed string, ok func(byte) bool) error {
	for i := range len(s) {
		if !ok(s[i]) {
			return fmt.Errorf("holds characters other than %s", allowed)
		}
	}
	return nil
}

func isAlphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}
