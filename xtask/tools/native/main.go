// A Web operator as it is written by hand, with controller-runtime: what `cargo xtask bench fleet` holds the host against.
//
// The same kind with the same four children as plugins/examples/web, applied by server-side apply on every reconcile, which
// the children's watches bring up; the status is written when it changes. Sixteen reconciles at a time, without limits on
// the client, as the host has it. NAMESPACE restricts it to one namespace; KUBECONFIG says where.
package main

import (
	"context"
	"os"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"
)

const (
	manager = "native"
	port    = 8080
)

var groupVersion = schema.GroupVersion{Group: "bench.dev", Version: "v1"}

type Web struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              WebSpec   `json:"spec"`
	Status            WebStatus `json:"status,omitempty"`
}

type WebSpec struct {
	Image    string `json:"image"`
	Replicas int32  `json:"replicas"`
}

type WebStatus struct {
	ObservedGeneration int64              `json:"observedGeneration,omitempty"`
	Conditions         []metav1.Condition `json:"conditions,omitempty"`
}

func (in *Web) DeepCopyObject() runtime.Object {
	out := *in
	in.ObjectMeta.DeepCopyInto(&out.ObjectMeta)
	out.Status.Conditions = append([]metav1.Condition(nil), in.Status.Conditions...)
	return &out
}

type WebList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Web `json:"items"`
}

func (in *WebList) DeepCopyObject() runtime.Object {
	out := *in
	in.ListMeta.DeepCopyInto(&out.ListMeta)
	out.Items = make([]Web, len(in.Items))
	for i := range in.Items {
		out.Items[i] = *in.Items[i].DeepCopyObject().(*Web)
	}
	return &out
}

type reconciler struct {
	client.Client
	scheme *runtime.Scheme
}

func (r *reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var web Web
	if err := r.Get(ctx, req.NamespacedName, &web); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	deployment := deploymentOf(&web)
	children := []client.Object{configOf(&web), serviceOf(&web), policyOf(&web), deployment}
	for _, child := range children {
		if err := ctrl.SetControllerReference(&web, child, r.scheme); err != nil {
			return ctrl.Result{}, err
		}
		if err := r.Patch(ctx, child, client.Apply, client.FieldOwner(manager), client.ForceOwnership); err != nil {
			return ctrl.Result{}, err
		}
	}
	status := *web.Status.deepCopy()
	status.ObservedGeneration = web.Generation
	ready := metav1.Condition{
		Type: "Ready", Status: metav1.ConditionFalse, Reason: "Progressing", ObservedGeneration: web.Generation,
		Message: "the Deployment is not available yet",
	}
	for _, condition := range deployment.Status.Conditions {
		if condition.Type == appsv1.DeploymentAvailable && condition.Status == corev1.ConditionTrue {
			ready.Status, ready.Reason, ready.Message = metav1.ConditionTrue, "Available", ""
		}
	}
	meta.SetStatusCondition(&status.Conditions, ready)
	if equality.Semantic.DeepEqual(status, web.Status) {
		return ctrl.Result{}, nil
	}
	web.Status = status
	return ctrl.Result{}, r.Status().Update(ctx, &web)
}

func (in *WebStatus) deepCopy() *WebStatus {
	return &WebStatus{ObservedGeneration: in.ObservedGeneration, Conditions: append([]metav1.Condition(nil), in.Conditions...)}
}

func labels(web *Web) map[string]string { return map[string]string{"app.kubernetes.io/name": web.Name} }

func object(web *Web) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: web.Name, Namespace: web.Namespace, Labels: labels(web)}
}

func kind(group, version, kind string) metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: schema.GroupVersion{Group: group, Version: version}.String(), Kind: kind}
}

func configOf(web *Web) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		TypeMeta: kind("", "v1", "ConfigMap"), ObjectMeta: object(web), Data: map[string]string{"motd": "this is " + web.Name},
	}
}

func serviceOf(web *Web) *corev1.Service {
	return &corev1.Service{
		TypeMeta: kind("", "v1", "Service"), ObjectMeta: object(web),
		Spec: corev1.ServiceSpec{
			Selector: labels(web),
			Ports:    []corev1.ServicePort{{Name: "http", Port: port, TargetPort: intstr.FromString("http")}},
		},
	}
}

func policyOf(web *Web) *networkingv1.NetworkPolicy {
	to := intstr.FromInt32(port)
	return &networkingv1.NetworkPolicy{
		TypeMeta: kind("networking.k8s.io", "v1", "NetworkPolicy"), ObjectMeta: object(web),
		Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchLabels: labels(web)},
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress},
			Ingress:     []networkingv1.NetworkPolicyIngressRule{{Ports: []networkingv1.NetworkPolicyPort{{Port: &to}}}},
		},
	}
}

func deploymentOf(web *Web) *appsv1.Deployment {
	probe := &corev1.Probe{ProbeHandler: corev1.ProbeHandler{
		HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt32(port)},
	}}
	container := corev1.Container{
		Name: "web", Image: web.Spec.Image,
		Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: port}},
		Env: []corev1.EnvVar{
			{Name: "APP_NAME", Value: web.Name}, {Name: "APP_NAMESPACE", Value: web.Namespace},
			{Name: "LOG_FORMAT", Value: "json"}, {Name: "LOG_LEVEL", Value: "info"}, {Name: "PORT", Value: "8080"},
		},
		Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{
				corev1.ResourceCPU: resource.MustParse("50m"), corev1.ResourceMemory: resource.MustParse("64Mi"),
			},
			Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("128Mi")},
		},
		LivenessProbe: probe, ReadinessProbe: probe,
	}
	return &appsv1.Deployment{
		TypeMeta: kind("apps", "v1", "Deployment"), ObjectMeta: object(web),
		Spec: appsv1.DeploymentSpec{
			Replicas: &web.Spec.Replicas,
			Selector: &metav1.LabelSelector{MatchLabels: labels(web)},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels(web)},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{container}},
			},
		},
	}
}

func main() {
	log.SetLogger(zap.New())
	ctx := ctrl.SetupSignalHandler()
	scheme := runtime.NewScheme()
	must(clientgoscheme.AddToScheme(scheme))
	scheme.AddKnownTypes(groupVersion, &Web{}, &WebList{})
	metav1.AddToGroupVersion(scheme, groupVersion)
	config := ctrl.GetConfigOrDie()
	config.QPS = -1
	options := ctrl.Options{
		Scheme: scheme, Metrics: server.Options{BindAddress: "0"},
		Cache: cache.Options{DefaultNamespaces: map[string]cache.Config{os.Getenv("NAMESPACE"): {}}},
	}
	mgr, err := ctrl.NewManager(config, options)
	must(err)
	must(ctrl.NewControllerManagedBy(mgr).
		For(&Web{}).
		Owns(&corev1.ConfigMap{}).Owns(&corev1.Service{}).Owns(&networkingv1.NetworkPolicy{}).Owns(&appsv1.Deployment{}).
		WithOptions(controller.Options{MaxConcurrentReconciles: 16}).
		Complete(&reconciler{Client: mgr.GetClient(), scheme: scheme}))
	must(mgr.Start(ctx))
}

func must(err error) {
	if err != nil {
		log.Log.Error(err, "the operator ends")
		os.Exit(1)
	}
}
