{{- define "keys-secret" -}}
{{- .Values.credentials.existingSecret | default (printf "%s-keys" .Values.name) -}}
{{- end -}}
{{- define "instances-secret" -}}
{{- .Values.instanceKubeconfigSecret | default (printf "%s-instances" .Values.name) -}}
{{- end -}}
{{- define "subjects" -}}
- kind: ServiceAccount
  name: {{ .Values.name }}-sa
  namespace: {{ .Release.Namespace }}
{{- end -}}
{{- define "node-user" -}}
- apiGroup: rbac.authorization.k8s.io
  kind: User
  name: system:node:{{ .Values.nodename }}
{{- end -}}
