package chain

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/tipstaff-dev/tipstaff/schema"
)

var trees = &compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}

// Batch is what one insert stored of one cluster.
type Batch struct {
	Cluster string
	// Rows are its rows' places and hashes, Root is the root of the rows' tree, Listed
	// that of the tree of Rows.
	Rows         []schema.ChainRow
	Root, Listed []byte
	// First and Last are the times of its rows.
	First, Last time.Time
}

// NewBatch makes the batch of events, which are cluster's, and at least one. Of two
// with one key the later is the row that stays.
func NewBatch(cluster string, events []schema.Event) (*Batch, error) {
	last := make(map[schema.RowKey]int, len(events))
	for i := range events {
		last[events[i].Key()] = i
	}
	b := &Batch{Cluster: cluster, Rows: make([]schema.ChainRow, 0, len(last))}
	tree, list := trees.NewEmptyRange(0), trees.NewEmptyRange(0)
	var canonical []byte
	for i := range events {
		e := &events[i]
		if last[e.Key()] != i {
			continue
		}
		canonical = e.AppendCanonical(canonical[:0])
		hash := rfc6962.DefaultHasher.HashLeaf(canonical)
		if err := tree.Append(hash, nil); err != nil {
			return nil, fmt.Errorf("batch of cluster %s: %w", cluster, err)
		}
		if b.First.IsZero() || e.Received.Before(b.First) {
			b.First = e.Received
		}
		if e.Received.After(b.Last) {
			b.Last = e.Received
		}
		row := schema.ChainRow{
			Cluster: cluster, RunKey: e.RunKey, Received: e.Received, AuditID: e.AuditID, Stage: e.Stage, StageTime: e.StageTime, Source: e.Source,
			Place: uint32(len(b.Rows)), Hash: short(hash), //nolint:gosec // an insert has no 4 billion rows
		}
		if err := list.Append(listed(&row), nil); err != nil {
			return nil, fmt.Errorf("batch of cluster %s: %w", cluster, err)
		}
		b.Rows = append(b.Rows, row)
	}
	if len(b.Rows) == 0 {
		return nil, errors.New("a batch needs a row")
	}
	var err error
	if b.Root, err = tree.GetRootHash(nil); err != nil {
		return nil, fmt.Errorf("batch of cluster %s: %w", cluster, err)
	}
	if b.Listed, err = list.GetRootHash(nil); err != nil {
		return nil, fmt.Errorf("batch of cluster %s: %w", cluster, err)
	}
	for i := range b.Rows {
		b.Rows[i].Batch = short(b.Root)
	}
	return b, nil
}

// listed is the leaf of what is told of a row.
func listed(r *schema.ChainRow) []byte { return rfc6962.DefaultHasher.HashLeaf(r.AppendCanonical(nil)) }

// short is the beginning of a hash.
func short(hash []byte) uint64 { return binary.BigEndian.Uint64(hash) }

// Head is a cluster's log as its last leaf left it; nil is the empty log.
type Head struct {
	Last schema.ChainBatch `json:"last"`
	// Frontier are the hashes that further leaves are added to (compact.Range).
	Frontier [][]byte `json:"frontier"`
}

// size is how many leaves there are.
func (h *Head) size() uint64 {
	if h == nil {
		return 0
	}
	return h.Last.Leaf + 1
}

// Extend gives the log with b as its next leaf. h's own checkpoint must be of one
// of key's: what isn't ours is not signed.
func Extend(h *Head, b *Batch, stored time.Time, key *Key) (*Head, error) {
	tree := trees.NewEmptyRange(0)
	if h != nil {
		if h.Last.Cluster != b.Cluster {
			return nil, fmt.Errorf("the log is cluster %s's, the batch cluster %s's", h.Last.Cluster, b.Cluster)
		}
		var err error
		if tree, err = trees.NewRange(0, h.size(), h.Frontier); err != nil {
			return nil, fmt.Errorf("the log's head: %w", err)
		}
		if err := key.Keys.check(&h.Last, tree); err != nil {
			return nil, err
		}
	}
	next := &Head{Last: schema.ChainBatch{
		Cluster: b.Cluster, Leaf: h.size(), Batch: short(b.Root), Rows: uint32(len(b.Rows)), //nolint:gosec // as above
		First: micro(b.First), Last: micro(b.Last), Stored: micro(stored),
		Root: base64.StdEncoding.EncodeToString(b.Root), Listed: base64.StdEncoding.EncodeToString(b.Listed),
	}}
	if err := tree.Append(leafHash(&next.Last), nil); err != nil {
		return nil, fmt.Errorf("extend the log: %w", err)
	}
	root, err := tree.GetRootHash(nil)
	if err != nil {
		return nil, fmt.Errorf("extend the log: %w", err)
	}
	next.Frontier = tree.Hashes()
	next.Last.Checkpoint, err = key.sign(b.Cluster, tree.End(), root)
	return next, err
}

// micro is t as the store keeps it.
func micro(t time.Time) time.Time { return time.UnixMicro(t.UnixMicro()).UTC() }

// leafHash is the leaf of a batch: of all that is told of it but what is derived.
func leafHash(b *schema.ChainBatch) []byte {
	return rfc6962.DefaultHasher.HashLeaf(fmt.Appendf(nil, "tipstaff.dev/batch/v1\n%s\n%d\n%d\n%d\n%d\n%d\n%s\n%s\n",
		b.Cluster, b.Leaf, b.Rows, b.First.UnixMicro(), b.Last.UnixMicro(), b.Stored.UnixMicro(), b.Root, b.Listed))
}

// Rebuild gives the head of a log from all of its leaves, in their order.
func Rebuild(leaves []schema.ChainBatch, keys Keys) (*Head, error) {
	if len(leaves) == 0 {
		return nil, nil
	}
	tree := trees.NewEmptyRange(0)
	for i := range leaves {
		if leaves[i].Leaf != uint64(i) {
			return nil, fmt.Errorf("leaf %d of the log is missing", i)
		}
		if err := tree.Append(leafHash(&leaves[i]), nil); err != nil {
			return nil, fmt.Errorf("rebuild the log: %w", err)
		}
	}
	h := &Head{Last: leaves[len(leaves)-1], Frontier: tree.Hashes()}
	return h, keys.check(&h.Last, tree)
}

// check is nil when last's checkpoint is signed and of tree.
func (k Keys) check(last *schema.ChainBatch, tree *compact.Range) error {
	size, root, err := k.Open(last.Cluster, last.Checkpoint)
	if err != nil {
		return err
	}
	computed, err := tree.GetRootHash(nil)
	if err != nil {
		return fmt.Errorf("the log's root: %w", err)
	}
	if size != tree.End() || !bytes.Equal(root, computed) {
		return fmt.Errorf("the log of cluster %s is not the one that checkpoint %d was signed for", last.Cluster, size)
	}
	return nil
}
