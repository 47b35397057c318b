package chain

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// Keys are public keys that may have signed a checkpoint.
type Keys []ed25519.PublicKey

// Key signs checkpoints.
type Key struct {
	private ed25519.PrivateKey
	// Keys are its own public key and those of its predecessors.
	Keys Keys
}

// NewKey makes one of a private key and its predecessors' public keys.
func NewKey(private ed25519.PrivateKey, former ...ed25519.PublicKey) *Key {
	own, _ := private.Public().(ed25519.PublicKey) // what ed25519 documents
	return &Key{private: private, Keys: append(Keys{own}, former...)}
}

// ReadKey reads a private Ed25519 key (PKCS #8, PEM), such as made by
// `openssl genpkey -algorithm ed25519`, and its predecessors' public keys.
func ReadKey(file string, former []string) (*Key, error) {
	der, err := readPEM(file)
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	private, ok := key.(ed25519.PrivateKey)
	if err != nil || !ok {
		return nil, errors.New("is no private Ed25519 key: make one with openssl genpkey -algorithm ed25519")
	}
	public, err := ReadPublicKeys(former...)
	if err != nil {
		return nil, err
	}
	return NewKey(private, public...), nil
}

// ReadPublicKeys reads public Ed25519 keys (PKIX, PEM), such as made by
// `openssl pkey -pubout`. A private one is taken for its public half.
func ReadPublicKeys(files ...string) (Keys, error) {
	var keys Keys
	for _, file := range files {
		der, err := readPEM(file)
		if err != nil {
			return nil, err
		}
		if key, err := x509.ParsePKIXPublicKey(der); err == nil {
			if public, ok := key.(ed25519.PublicKey); ok {
				keys = append(keys, public)
				continue
			}
		}
		key, err := x509.ParsePKCS8PrivateKey(der)
		private, ok := key.(ed25519.PrivateKey)
		if err != nil || !ok {
			return nil, fmt.Errorf("%s is no Ed25519 key: openssl pkey -pubout makes the public one", file)
		}
		keys = append(keys, NewKey(private).Keys...)
	}
	return keys, nil
}

func readPEM(file string) ([]byte, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("can't be read: %w", err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s holds no PEM", file)
	}
	return block.Bytes, nil
}

// origin names a cluster's log, and who signs for it.
func origin(cluster string) string { return "tipstaff.dev/audit/" + cluster }

// signer signs notes for one log.
type signer struct {
	name    string
	private ed25519.PrivateKey
}

func (s signer) Name() string { return s.name }

// KeyHash is as golang.org/x/mod/sumdb/note documents it for Ed25519.
func (s signer) KeyHash() uint32 {
	public, _ := s.private.Public().(ed25519.PublicKey)
	sum := sha256.Sum256(append([]byte(s.name+"\n\x01"), public...))
	return binary.BigEndian.Uint32(sum[:])
}

func (s signer) Sign(msg []byte) ([]byte, error) { return ed25519.Sign(s.private, msg), nil }

// sign gives the checkpoint of a cluster's log.
func (k *Key) sign(cluster string, size uint64, root []byte) (string, error) {
	text := fmt.Sprintf("%s\n%d\n%s\n", origin(cluster), size, base64.StdEncoding.EncodeToString(root))
	signed, err := note.Sign(&note.Note{Text: text}, signer{origin(cluster), k.private})
	if err != nil {
		return "", fmt.Errorf("sign the log of cluster %s: %w", cluster, err)
	}
	return string(signed), nil
}

// maxCheckpointBytes bounds one that is read.
const maxCheckpointBytes = 16 << 10

// Open gives what a checkpoint says of a cluster's log, when one of the keys has
// signed it.
func (k Keys) Open(cluster, checkpoint string) (size uint64, root []byte, err error) {
	bad := func(why string) (uint64, []byte, error) {
		return 0, nil, fmt.Errorf("a checkpoint of cluster %s %s", cluster, why)
	}
	if len(checkpoint) > maxCheckpointBytes {
		return bad("is too long")
	}
	verifiers := make([]note.Verifier, 0, len(k))
	for _, public := range k {
		text, err := note.NewEd25519VerifierKey(origin(cluster), public)
		if err != nil {
			return bad("can't be verified: " + err.Error())
		}
		v, err := note.NewVerifier(text)
		if err != nil {
			return bad("can't be verified: " + err.Error())
		}
		verifiers = append(verifiers, v)
	}
	n, err := note.Open([]byte(checkpoint), note.VerifierList(verifiers...))
	if err != nil {
		return bad("is not signed by the key")
	}
	lines := strings.Split(n.Text, "\n")
	if len(lines) < 4 || lines[0] != origin(cluster) {
		return bad("is another log's")
	}
	size, err = strconv.ParseUint(lines[1], 10, 64)
	if err != nil {
		return bad("has no size")
	}
	if root, err = base64.StdEncoding.DecodeString(lines[2]); err != nil || len(root) != sha256.Size {
		return bad("has no root")
	}
	return size, root, nil
}
