package approvals

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"sort"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tipstaff-dev/tipstaff/api/v1alpha1"
)

// selector is one field by which a revocation names somebody.
type selector struct{ name, value string }

// selectors are those of spec that are set, in a fixed order.
func selectors(spec v1alpha1.RevocationSpec) []selector {
	var set []selector
	for _, s := range []selector{
		{"run", spec.Run}, {"issuer", spec.Issuer}, {"subject", spec.Subject}, {"agent", spec.Agent},
		{"owner", spec.Owner}, {"credential", spec.CredentialID},
	} {
		if s.value != "" {
			set = append(set, s)
		}
	}
	return set
}

// Who says whom a revocation names: run "7", issuer "ci".
func Who(spec v1alpha1.RevocationSpec) string {
	set := selectors(spec)
	words := make([]string, len(set))
	for i, s := range set {
		words[i] = s.name + " " + strconv.Quote(s.value)
	}
	return strings.Join(words, ", ")
}

// Revoke ends what those whom spec names may do: their tokens and changes are
// refused from now on. Revoking the same until the same time twice is no error;
// the first reason stays.
func Revoke(ctx context.Context, c client.Client, spec v1alpha1.RevocationSpec) (*v1alpha1.Revocation, error) {
	if len(selectors(spec)) == 0 {
		return nil, errors.New("a revocation names somebody: a run, issuer, subject, agent, owner or credential")
	}
	if strings.TrimSpace(spec.Reason) == "" {
		return nil, errors.New("a revocation needs a reason: the run and the record get it")
	}
	if spec.Until != nil {
		until := metav1.NewTime(spec.Until.UTC().Truncate(time.Second)) // what the API server keeps
		if !until.After(time.Now()) {
			return nil, fmt.Errorf("a revocation until %s is over already", until.Format(time.RFC3339))
		}
		spec.Until = &until
	}
	doing := "revoke " + Who(spec)
	r := &v1alpha1.Revocation{ObjectMeta: metav1.ObjectMeta{Name: revocationName(spec)}, Spec: spec}
	err := c.Create(ctx, r)
	if apierrors.IsAlreadyExists(err) {
		r = &v1alpha1.Revocation{}
		err = c.Get(ctx, client.ObjectKey{Name: revocationName(spec)}, r)
	}
	if err != nil {
		return nil, wordError(doing, "you", err)
	}
	// Only whom it names makes it the one that was asked for; whoever may write
	// revocations may have taken the name.
	stands := r.Spec
	stands.Reason = spec.Reason
	if !apiequality.Semantic.DeepEqual(stands, spec) {
		return nil, fmt.Errorf("%s: revocation %s exists and names others (%s): nobody is revoked by this; delete it and try again", doing, r.Name, Who(r.Spec))
	}
	if r.DeletionTimestamp != nil {
		return nil, fmt.Errorf("%s: revocation %s is being deleted: try again when it is gone", doing, r.Name)
	}
	r.TypeMeta = revocationType
	return r, nil
}

var revocationType = metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Revocation"}

// revocationName is the same for the same people and end.
func revocationName(spec v1alpha1.RevocationSpec) string {
	h := sha256.New()
	for _, s := range selectors(spec) {
		_, _ = fmt.Fprintf(h, "%s %q\n", s.name, s.value) // a hash takes everything
	}
	if spec.Until != nil {
		_, _ = fmt.Fprintf(h, "until %d\n", spec.Until.Unix())
	}
	return "revoked-" + hex.EncodeToString(h.Sum(nil)[:10])
}

// ListRevocations reads all revocations, the newest first.
func ListRevocations(ctx context.Context, c client.Reader) (*v1alpha1.RevocationList, error) {
	var l v1alpha1.RevocationList
	if err := c.List(ctx, &l); err != nil {
		return nil, wordError("list revocations", "you", err)
	}
	l.TypeMeta = metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "RevocationList"}
	for i := range l.Items {
		l.Items[i].TypeMeta = revocationType
	}
	sort.SliceStable(l.Items, func(i, j int) bool {
		a, b := &l.Items[i], &l.Items[j]
		if !a.CreationTimestamp.Equal(&b.CreationTimestamp) {
			return b.CreationTimestamp.Before(&a.CreationTimestamp)
		}
		return a.Name < b.Name
	})
	return &l, nil
}

// WriteRevocations writes revocations as a table for a terminal.
func WriteRevocations(w io.Writer, revs []v1alpha1.Revocation, now time.Time) error {
	tw := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	if _, err := fmt.Fprintln(tw, "NAME\tREVOKED\tUNTIL\tREASON\tAGE"); err != nil {
		return err
	}
	for i := range revs {
		r := &revs[i]
		until := "for good"
		if r.Spec.Until != nil {
			until = r.Spec.Until.UTC().Format(time.RFC3339)
		}
		if r.Ended(now) {
			until += " (ended)"
		}
		if err := writeRow(tw, r.Name, Who(r.Spec), until, r.Spec.Reason, duration.HumanDuration(now.Sub(r.CreationTimestamp.Time))); err != nil {
			return err
		}
	}
	return tw.Flush()
}
