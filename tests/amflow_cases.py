"""Small AM Flow models that tests of several rooms take."""
WIDTHS = dict(
    bottleneck=16, aligner_dim=24, aligner_depth=1, aligner_mlp_dim=32, aligner_heads=4, tcn_dim=8, lstm_dim=12,
    transformer_mlp_dim=24, transformer_heads=4)
VIT = dict(
    model_name='amflow_dinov2_b_tcn', backbone='vit_base_patch14_reg4_dinov2', embed_dim=32, depth=3, num_heads=2,
    num_frames=4, img_size=28, patch_size=7, **WIDTHS)
EVA = dict(
    VIT, backbone='vit_base_patch16_dinov3', model_name='amflow_dinov2_b_smarthome', img_size=32, patch_size=8,
    fusion='linear')
SIGLIP = dict(
    VIT, backbone='vit_base_patch16_siglip_224', model_name='amflow_clip_b_transformer_lite', num_frames=5,
    fusion='random', adapter='serial', flow_grad=False)
HYPER = dict(
    VIT, backbone='deit3_base_patch16_224', adapter='hyper', flow='vanilla', squeeze='after', am_blocks=(1, -1))
HIERA = {
    **{key: value for key, value in VIT.items() if key not in ('depth', 'patch_size')},
    **dict(
        backbone='hiera_tiny_224', embed_dim=8, num_heads=1, stages=(2, 1, 3, 2), img_size=64, mask_unit_size=(8, 8)),
}
