package conformance

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

const (
	manager = "tipstaff-conformance"
	// controllerTimeout bounds the wait for what a controller does.
	controllerTimeout = 10 * time.Second
	// removeTimeout bounds the removal of all that was planted.
	removeTimeout = time.Minute
	pollEvery     = 100 * time.Millisecond
)

// planter makes and removes what is planted.
type planter struct {
	client    dynamic.Interface
	namespace string
	made      []madeObject
}

// madeObject is what the namespace's end doesn't remove.
type madeObject struct {
	gvr             schema.GroupVersionResource
	namespace, name string
	finalizers      bool // it goes when these are gone
}

func newPlanter(cfg *rest.Config) (*planter, error) {
	cfg = rest.CopyConfig(cfg)
	cfg.QPS = -1 // a hundred requests; the API server's own limit is the limit
	cfg.WarningHandler = rest.NoWarnings{}
	c, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("plant kubeconfig: %w", err)
	}
	return &planter{client: c}, nil
}

// begin makes the run's namespace.
func (p *planter) begin(ctx context.Context, name string) error {
	p.namespace = name
	if err := p.create(ctx, namespaces, "", map[string]any{
		"apiVersion": "v1", "kind": "Namespace",
		"metadata": map[string]any{"name": name, "labels": map[string]any{"app.kubernetes.io/managed-by": manager}},
	}); err != nil {
		return fmt.Errorf("make namespace %s: %w", name, err)
	}
	// Pods need the first one, and kube-controller-manager may be slower than we.
	for _, account := range []string{"default", tokenAccount} {
		err := p.create(ctx, accounts, name, map[string]any{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": map[string]any{"name": account}})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("make service account %s: %w", account, err)
		}
	}
	return nil
}

func (p *planter) create(ctx context.Context, gvr schema.GroupVersionResource, namespace string, object map[string]any) error {
	o, err := asUnstructured(object)
	if err != nil {
		return err
	}
	_, err = p.client.Resource(gvr).Namespace(namespace).Create(ctx, o, metav1.CreateOptions{FieldManager: manager})
	// An error may come after it was made; what was there before is not ours.
	if namespace != p.namespace && !apierrors.IsAlreadyExists(err) {
		p.made = append(p.made, madeObject{gvr: gvr, namespace: namespace, name: o.GetName()})
	}
	return err
}

// plant makes h.
func (p *planter) plant(ctx context.Context, h *holder) error {
	if h.apply {
		o, err := asUnstructured(h.object)
		if err != nil {
			return err
		}
		p.made = append(p.made, madeObject{h.gvr, h.namespace(), h.name(), true})
		if _, err := p.client.Resource(h.gvr).Namespace(h.namespace()).Apply(ctx, h.name(), o, metav1.ApplyOptions{FieldManager: manager}); err != nil {
			return err
		}
	} else if err := p.create(ctx, h.gvr, h.namespace(), h.object); err != nil {
		return err
	}
	if h.after != nil {
		return h.after(ctx, p, h)
	}
	return nil
}

// asUnstructured gives object the types that JSON has.
func asUnstructured(object map[string]any) (*unstructured.Unstructured, error) {
	b, err := json.Marshal(object)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", text(object["kind"]), err)
	}
	o := &unstructured.Unstructured{}
	if err := o.UnmarshalJSON(b); err != nil {
		return nil, fmt.Errorf("decode %s: %w", text(object["kind"]), err)
	}
	return o, nil
}

// define makes the CRD of widgets, and waits until they are served.
func (p *planter) define(ctx context.Context, definition map[string]any) error {
	o, err := asUnstructured(definition)
	if err != nil {
		return err
	}
	if _, err := p.client.Resource(crds).Create(ctx, o, metav1.CreateOptions{FieldManager: manager}); err != nil {
		return err // one that is there already is another's: it is not for us to remove
	}
	p.made = append(p.made, madeObject{gvr: crds, name: o.GetName()})
	return poll(ctx, "the API server serves widgets", func(ctx context.Context) (bool, error) {
		_, err := p.client.Resource(widgets).Namespace(p.namespace).List(ctx, metav1.ListOptions{})
		return err == nil, nil
	})
}

// awaitToken waits until a controller has put the token in.
func (p *planter) awaitToken(ctx context.Context, h *holder) error {
	var token string
	err := poll(ctx, "a controller fills the token", func(ctx context.Context) (bool, error) {
		o, err := p.get(ctx, h)
		if err != nil {
			return false, err
		}
		token, _, _ = unstructured.NestedString(o.Object, "data", "token") // what isn't there yet is empty
		return token != "", nil
	})
	if err != nil {
		return err
	}
	plain, err := base64.StdEncoding.DecodeString(token)
	if err != nil || len(plain) < 128 {
		return errors.New("the controller's token is none")
	}
	// Its end is the signature.
	h.values = append(h.values, Value{Place: h.fills, Secret: plain[len(plain)-64:]})
	return nil
}

// sign answers a CSR as its signer would.
func (p *planter) sign(ctx context.Context, h *holder) error {
	c, err := certificate()
	if err != nil {
		return err
	}
	o, err := p.get(ctx, h)
	if err != nil {
		return err
	}
	approved := map[string]any{"type": "Approved", "status": "True", "reason": "Conformance", "message": "planted"}
	if err := unstructured.SetNestedField(o.Object, []any{approved}, "status", "conditions"); err != nil {
		return err
	}
	if o, err = p.client.Resource(csrs).Update(ctx, o, metav1.UpdateOptions{}, "approval"); err != nil {
		return fmt.Errorf("approve the request: %w", err)
	}
	if err := unstructured.SetNestedField(o.Object, base64.StdEncoding.EncodeToString([]byte(c.text)), "status", "certificate"); err != nil {
		return err
	}
	if _, err = p.client.Resource(csrs).UpdateStatus(ctx, o, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("answer the request: %w", err)
	}
	h.plant(h.fills, c)
	return nil
}

func (p *planter) get(ctx context.Context, h *holder) (*unstructured.Unstructured, error) {
	return p.client.Resource(h.gvr).Namespace(h.namespace()).Get(ctx, h.name(), metav1.GetOptions{})
}

// remove removes all that was made, whatever has ended. Nothing that is gone is
// an error.
func (p *planter) remove(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout)
	defer cancel()
	var errs []error
	for i := len(p.made) - 1; i >= 0; i-- { // the namespace comes last
		m := p.made[i]
		c := p.client.Resource(m.gvr).Namespace(m.namespace)
		if m.finalizers {
			_, err := c.Patch(ctx, m.name, types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{FieldManager: manager})
			if err != nil && !apierrors.IsNotFound(err) {
				errs = append(errs, fmt.Errorf("take the finalizer off %s %s: %w", m.gvr.Resource, m.name, err))
			}
		}
		if err := c.Delete(ctx, m.name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("remove %s %s: %w", m.gvr.Resource, m.name, err))
		}
	}
	if len(errs) > 0 {
		return fmt.Errorf("what was planted could not all be removed: %w", errors.Join(errs...))
	}
	return nil
}

// poll waits until done says so; what names what is waited for.
func poll(ctx context.Context, what string, done func(context.Context) (bool, error)) error {
	if err := wait.PollUntilContextTimeout(ctx, pollEvery, controllerTimeout, true, done); err != nil {
		if wait.Interrupted(err) {
			return fmt.Errorf("not within %s: %s", controllerTimeout, what)
		}
		return err
	}
	return nil
}
