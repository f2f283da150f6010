"""Tiny in-memory Kubernetes API: discovery + CRUD + strict JSON-schema validation (kubernetes-validate). Enough for helm install/upgrade/rollback/uninstall and kubectl get/apply."""
import http.server, json, re, sys, copy, time, uuid, urllib.parse, yaml, kubernetes_validate
VER='1.35'
WITHOUT=set(sys.argv[2:])  # API groups that this cluster lacks
R={('','v1'):[('pods','Pod',1),('services','Service',1),('secrets','Secret',1),('configmaps','ConfigMap',1),('serviceaccounts','ServiceAccount',1),('namespaces','Namespace',0),('persistentvolumeclaims','PersistentVolumeClaim',1)],
('apps','v1'):[('deployments','Deployment',1),('daemonsets','DaemonSet',1),('statefulsets','StatefulSet',1)],('batch','v1'):[('jobs','Job',1),('cronjobs','CronJob',1)],('policy','v1'):[('poddisruptionbudgets','PodDisruptionBudget',1)],
('networking.k8s.io','v1'):[('networkpolicies','NetworkPolicy',1),('ingresses','Ingress',1)],('rbac.authorization.k8s.io','v1'):[('roles','Role',1),('rolebindings','RoleBinding',1),('clusterroles','ClusterRole',0),('clusterrolebindings','ClusterRoleBinding',0)],
('monitoring.coreos.com','v1'):[('servicemonitors','ServiceMonitor',1),('prometheusrules','PrometheusRule',1)],('autoscaling','v2'):[('horizontalpodautoscalers','HorizontalPodAutoscaler',1)]}
R={k:v for k,v in R.items() if k[0] not in WITHOUT}
S={}; RV=[1]
def reslist(g,v): return {'kind':'APIResourceList','apiVersion':'v1','groupVersion':(g+'/' if g else '')+v,'resources':[{'name':p,'singularName':k.lower(),'namespaced':bool(n),'kind':k,'verbs':['create','delete','get','list','patch','update','watch']} for p,k,n in R[(g,v)]]}
def status(code,reason,msg): return code,{'kind':'Status','apiVersion':'v1','status':'Failure','reason':reason,'message':msg,'code':code}
def merge(a,b):
    if not isinstance(b,dict): return b
    a=dict(a) if isinstance(a,dict) else {}
    for k,v in b.items():
        if k.startswith('$'): continue
        if v is None: a.pop(k,None)
        else: a[k]=merge(a.get(k),v)
    return a
def validate(o):
    try: kubernetes_validate.validate(o,VER,strict=True)
    except kubernetes_validate.ValidationError as e: return f"{'.'.join(str(x) for x in e.path)}: {e.message}"
    except Exception as e:
        if 'SchemaNotFound' in type(e).__name__: return None
        return str(e)
def finish(o):
    RV[0]+=1; m=o.setdefault('metadata',{}); m['resourceVersion']=str(RV[0]); m.setdefault('uid',str(uuid.uuid4())); m.setdefault('creationTimestamp',time.strftime('%Y-%m-%dT%H:%M:%SZ',time.gmtime()))
    k=o.get('kind'); n=o.get('spec',{}).get('replicas',1) if isinstance(o.get('spec'),dict) else 1
    if k=='Job': o['status']={'succeeded':1,'conditions':[{'type':'Complete','status':'True'}]}
    if k=='DaemonSet': o['status']={'desiredNumberScheduled':1,'currentNumberScheduled':1,'numberAvailable':1,'numberReady':1,'numberMisscheduled':0,'updatedNumberScheduled':1,'observedGeneration':1}
    if k=='Pod': o['status']={'phase':'Succeeded'}
    if k=='Deployment': o['status']={'replicas':n,'readyReplicas':n,'availableReplicas':n,'updatedReplicas':n,'observedGeneration':1,'conditions':[{'type':'Available','status':'True'}]}
    return o
def pb(b):
    i=0; out=[]
    def vi():
        nonlocal i; r=sh=0
        while True:
            c=b[i]; i+=1; r|=(c&127)<<sh; sh+=7
            if c<128: return r
    while i<len(b):
        t=vi(); f,w=t>>3,t&7
        if w==0: out.append((f,vi()))
        elif w==2: l=vi(); out.append((f,b[i:i+l])); i+=l
        elif w==1: out.append((f,b[i:i+8])); i+=8
        elif w==5: out.append((f,b[i:i+4])); i+=4
    return out
def pmap(l,f): return {dict(pb(x))[1].decode():dict(pb(x)).get(2,b'') for g,x in l if g==f}
def unproto(raw):
    """k8s protobuf envelope of a Secret (what helm 4 sends for its release records) -> JSON object; DeleteOptions -> {}"""
    import base64
    unk=dict(pb(raw[4:])); tm=dict(pb(unk[1])); kind=tm.get(2,b'').decode()
    if kind!='Secret': return {}
    l=pb(unk[2]); d=dict(l); m=pb(d.get(1,b'')); md=dict(m); meta={'name':md.get(1,b'').decode()}
    if md.get(3): meta['namespace']=md[3].decode()
    for f,n in ((11,'labels'),(12,'annotations')):
        x={k:v.decode() for k,v in pmap(m,f).items()}
        if x: meta[n]=x
    return {'kind':'Secret','apiVersion':'v1','metadata':meta,'data':{k:base64.b64encode(v).decode() for k,v in pmap(l,2).items()},'type':d.get(3,b'').decode()}
class H(http.server.BaseHTTPRequestHandler):
    protocol_version='HTTP/1.1'
    def out(self,code,o):
        b=json.dumps(o).encode(); self.send_response(code); self.send_header('Content-Type','application/json'); self.send_header('Content-Length',str(len(b))); self.end_headers(); self.wfile.write(b)
        print(self.command,self.path.split('?')[0],code,o.get('message','') if code>=400 else '',flush=True)
    def do(self):
        n=int(self.headers.get('content-length') or 0); raw=self.rfile.read(n); u=urllib.parse.urlparse(self.path); p=u.path.rstrip('/'); q=urllib.parse.parse_qs(u.query)
        if p=='/version': return self.out(200,{'major':'1','minor':'35','gitVersion':'v1.35.0','platform':'linux/amd64'})
        if p=='/openapi/v2': # no schemas (in protobuf: nothing at all), so that clients leave validation to the server
            self.send_response(200); self.send_header('Content-Type','application/octet-stream'); self.send_header('Content-Length','0'); self.end_headers(); return
        if p=='/api': return self.out(200,{'kind':'APIVersions','versions':['v1']})
        if p=='/apis': return self.out(200,{'kind':'APIGroupList','apiVersion':'v1','groups':[{'name':g,'versions':[{'groupVersion':g+'/'+v,'version':v}],'preferredVersion':{'groupVersion':g+'/'+v,'version':v}} for g,v in R if g]})
        m=re.match(r'^/api(?:s/([^/]+))?/([^/]+)(?:/namespaces/([^/]+)(?=/))?(?:/([^/]+))?(?:/([^/]+))?$',p)
        if not m: return self.out(*status(404,'NotFound','the server could not find the requested resource'))
        g,v,ns,pl,name=m.groups(); g=g or ''
        if (g,v) not in R: return self.out(*status(404,'NotFound','unknown group '+str((g,v))))
        if not pl: return self.out(200,reslist(g,v))
        d={a:(k,nsd) for a,k,nsd in R[(g,v)]}
        if pl not in d: return self.out(*status(404,'NotFound','unknown resource '+pl))
        kind,_=d[pl]; key=(g,v,pl,ns,name); body=(unproto(raw) if raw[:4]==b'k8s\x00' else yaml.safe_load(raw)) if raw else None; api=(g+'/' if g else '')+v
        if self.command=='GET':
            if name: return self.out(200,S[key]) if key in S else self.out(*status(404,'NotFound',f'{pl} "{name}" not found'))
            sel=q.get('labelSelector',[''])[0]; items=[o for k,o in S.items() if k[:3]==(g,v,pl) and (ns is None or k[3]==ns)]
            for t in [t for t in re.split(r',(?![^()]*\))',sel) if t]:
                if '!=' in t: a,b=t.split('!='); items=[o for o in items if o['metadata'].get('labels',{}).get(a)!=b]
                elif '=' in t: a,b=re.split('==?',t,1); items=[o for o in items if o['metadata'].get('labels',{}).get(a)==b]
            return self.out(200,{'kind':kind+'List','apiVersion':api,'metadata':{'resourceVersion':str(RV[0])},'items':items})
        if self.command in('POST','PUT','PATCH'):
            if self.command=='POST': name=body['metadata']['name']; key=(g,v,pl,ns,name); 
            if self.command=='POST' and key in S: return self.out(*status(409,'AlreadyExists',f'{pl} "{name}" already exists'))
            if self.command=='PATCH':
                ssa='apply-patch' in self.headers.get('content-type','')
                if key not in S and not ssa: return self.out(*status(404,'NotFound',f'{pl} "{name}" not found'))
                body=merge(copy.deepcopy(S.get(key,{})),body)
            e=validate({k:x for k,x in body.items() if k!='status'})
            if e: return self.out(*status(422,'Invalid',f'{kind} "{name}" is invalid: {e}'))
            body.setdefault('metadata',{})
            if ns: body['metadata'].setdefault('namespace',ns)
            if 'dryRun' not in q: S[key]=finish(body)
            return self.out(201 if self.command=='POST' else 200,body)
        if self.command=='DELETE':
            if key not in S: return self.out(*status(404,'NotFound',f'{pl} "{name}" not found'))
            S.pop(key); return self.out(200,{'kind':'Status','apiVersion':'v1','status':'Success'})
    do_GET=do_POST=do_PUT=do_PATCH=do_DELETE=do
    def log_message(self,*a): pass
http.server.ThreadingHTTPServer(('127.0.0.1',int(sys.argv[1])),H).serve_forever()
